//! The definition.

use ndarray::{Array3, ArrayViewMut3};

use super::{Inputs, OP};
use crate::Error;

/// Token by token as the equation reads, in f64.
pub fn naive(x: &Inputs<'_, f64>, mut state: ArrayViewMut3<'_, f64>) -> Result<Array3<f64>, Error> {
    x.check(state.shape())?;
    let (batch, t, d, n) = x.dims();
    let mut y = Array3::zeros((batch, t, d));
    for (s, range) in x.sequences.ranges(OP, batch, t)?.into_iter().enumerate() {
        for (b, t) in range.map(|i| (i / t, i % t)) {
            for c in 0..d {
                let u = x.dt[[b, t, c]] + x.dt_bias[c];
                let delta = u.max(0.0) + (-u.abs()).exp().ln_1p(); // softplus
                let mut sum = x.d[c] * x.x[[b, t, c]];
                for i in 0..n {
                    let h = &mut state[[s, i, c]];
                    *h = (delta * x.a[[i, c]]).exp() * *h + delta * x.b[[b, t, i]] * x.x[[b, t, c]];
                    sum += x.c[[b, t, i]] * *h;
                }
                y[[b, t, c]] = match x.z {
                    None => sum,
                    Some(z) => sum * z[[b, t, c]] / (1.0 + (-z[[b, t, c]]).exp()),
                };
            }
        }
    }
    Ok(y)
}
