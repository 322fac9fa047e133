//! The definition.

use ndarray::{Array3, ArrayViewMut2};

use super::{Inputs, OP, SHARPNESS};
use crate::Error;

/// Token by token as the equation reads, in f64.
pub fn naive(x: &Inputs<'_, f64>, mut state: ArrayViewMut2<'_, f64>) -> Result<Array3<f64>, Error> {
    x.check(state.shape())?;
    let (b, t, d) = x.x.dim();
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let mut o = Array3::zeros((b, t, d));
    for (s, range) in x.sequences.ranges(OP, b, t)?.into_iter().enumerate() {
        for (b, t) in range.map(|i| (i / t, i % t)) {
            for c in 0..d {
                let at = [b, t, c];
                let log_a = -f64::from(SHARPNESS) * softplus(x.lambda[c]) * sigmoid(x.r[at]);
                let begins = x.reset.is_some_and(|reset| reset[[b, t]] != 0.0);
                let (a, root) = if begins { (0.0, 1.0) } else { (log_a.exp(), (-(2.0 * log_a).exp_m1()).sqrt()) };
                state[[s, c]] = a * state[[s, c]] + root * sigmoid(x.i[at]) * x.x[at];
                o[at] = state[[s, c]];
            }
        }
    }
    Ok(o)
}
