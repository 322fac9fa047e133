//! The definition.

use ndarray::{Array4, ArrayViewMut4};

use super::{Inputs, OP};
use crate::{Error, error};

/// The equation, token by token in f64.
pub fn naive(x: &Inputs<'_, f64>, mut state: ArrayViewMut4<'_, f64>) -> Result<Array4<f64>, Error> {
    x.check()?;
    error::shape(OP, "state", &x.state_shape(), state.shape())?;
    let (batch, t, heads, p) = x.x.dim();
    let (_, _, groups, n) = x.b.dim();
    let mut y = Array4::zeros((batch, t, heads, p));
    for (s, range) in x.sequences.ranges(OP, batch, t)?.into_iter().enumerate() {
        for (b, t) in range.map(|i| (i / t, i % t)) {
            for h in 0..heads {
                let group = h / (heads / groups);
                let u = x.dt[[b, t, h]] + x.dt_bias[h];
                let softplus = u.max(0.0) + (-u.abs()).exp().ln_1p();
                let delta = softplus.max(x.dt_limit.0).min(x.dt_limit.1);
                let decay = (delta * x.a[h]).exp();
                for j in 0..p {
                    let value = x.x[[b, t, h, j]];
                    let mut sum = x.d[h] * value;
                    for i in 0..n {
                        let cell = &mut state[[s, h, i, j]];
                        *cell = decay * *cell + delta * x.b[[b, t, group, i]] * value;
                        sum += x.c[[b, t, group, i]] * *cell;
                    }
                    y[[b, t, h, j]] = sum;
                }
            }
        }
    }
    Ok(y)
}
