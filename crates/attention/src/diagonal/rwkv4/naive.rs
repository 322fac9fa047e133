//! The definition.

use ndarray::{Array3, ArrayViewMut3};

use super::{Inputs, OP};
use crate::Error;

/// Token by token as the equation reads, in f64; the sums are divided by `e^m`, as in the state.
pub fn naive(x: &Inputs<'_, f64>, mut state: ArrayViewMut3<'_, f64>) -> Result<Array3<f64>, Error> {
    x.check(state.shape())?;
    let (b, t, d) = x.k.dim();
    let mut o = Array3::zeros((b, t, d));
    for (s, range) in x.sequences.ranges(OP, b, t)?.into_iter().enumerate() {
        for (b, t) in range.map(|i| (i / t, i % t)) {
            for c in 0..d {
                let (k, v, w, u) = (x.k[[b, t, c]], x.v[[b, t, c]], x.w[c], x.u[c]);
                let [num, den, m] = [0, 1, 2].map(|n| state[[s, n, c]]);
                // Without weights there is no maximum exponent.
                let m = if den == 0.0 { f64::NEG_INFINITY } else { m };
                let top = m.max(u + k);
                let (old, new) = ((m - top).exp(), (u + k - top).exp());
                o[[b, t, c]] = (old * num + new * v) / (old * den + new);
                let top = k.max(m + w);
                let (old, new) = ((m + w - top).exp(), (k - top).exp());
                let next = [old * num + new * v, old * den + new, top];
                (0..3).for_each(|n| state[[s, n, c]] = next[n]);
            }
        }
    }
    Ok(o)
}
