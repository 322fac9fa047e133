//! The definition.

use ndarray::{Array4, ArrayViewMut4};

use super::{Dims, Inputs, OP};
use crate::Error;

/// The equation, token by token in f64.
pub fn naive(x: &Inputs<'_, f64>, mut state: ArrayViewMut4<'_, f64>) -> Result<Array4<f64>, Error> {
    x.check(state.shape())?;
    let dims @ Dims { b, t, h: heads, k, v, .. } = x.dims();
    let mut o = Array4::zeros((b, t, heads, v));
    for (s, range) in x.sequences.ranges(OP, b, t)?.into_iter().enumerate() {
        for (b, t) in range.map(|i| (i / t, i % t)) {
            for h in 0..heads {
                let group = dims.group(h);
                let decay = x.g.map_or(0.0, |g| g[[b, t, h]]).exp();
                let beta = x.beta.map_or(1.0, |w| w[[b, t, h]]);
                let skip = x.skip.map_or(0.0, |d| d[h]);
                for j in 0..v {
                    let value = x.v[[b, t, h, j]];
                    let mut sum = 0.0;
                    for i in 0..k {
                        let cell = &mut state[[s, h, i, j]];
                        *cell = decay * *cell + beta * x.k[[b, t, group, i]] * value;
                        sum += *cell * x.q[[b, t, group, i]];
                    }
                    o[[b, t, h, j]] = x.scale * sum + skip * value;
                }
            }
        }
    }
    Ok(o)
}
