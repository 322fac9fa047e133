//! The definition.

use ndarray::{Array3, ArrayViewMut3};

use super::{Activation, Inputs, OP};
use crate::Error;

/// Each output as the sum that defines it, in f64.
pub fn naive(x: &Inputs<'_, f64>, mut state: ArrayViewMut3<'_, f64>) -> Result<Array3<f64>, Error> {
    x.check(state.shape())?;
    let (b, t, d, w) = x.dims();
    let mut y = Array3::zeros((b, t, d));
    for (s, range) in x.sequences.ranges(OP, b, t)?.into_iter().enumerate() {
        for c in 0..d {
            // The channel's state, then its tokens.
            let mut line: Vec<f64> = state.slice(ndarray::s![s, .., c]).to_vec();
            line.extend(range.clone().map(|i| x.x[[i / t, i % t, c]]));
            for (n, i) in range.clone().enumerate() {
                let sum: f64 = (0..w).map(|j| x.w[[j, c]] * line[n + j]).sum();
                let u = sum + x.bias.map_or(0.0, |b| b[c]);
                y[[i / t, i % t, c]] = match x.activation {
                    Activation::None => u,
                    Activation::Silu => u / (1.0 + (-u).exp()),
                };
            }
            let past = &line[line.len() - (w - 1)..];
            state.slice_mut(ndarray::s![s, .., c]).iter_mut().zip(past).for_each(|(s, x)| *s = *x);
        }
    }
    Ok(y)
}
