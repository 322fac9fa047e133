//! The definition.

use ndarray::{Array3, Array4, ArrayView2, ArrayView4, s};

use super::{ALL, Inputs};
use crate::{Error, softmax};

/// As the equation reads, in f64: the output, `[B, T, H, E]`, and the log-sum-exp, `[B, T, H]`.
pub fn naive(x: &Inputs<'_, f64>) -> Result<(Array4<f64>, Array3<f64>), Error> {
    x.check()?;
    let (k, v) = (project(x.k, x.e), project(x.v, x.f.unwrap_or(x.e)));
    softmax::naive(&softmax::Inputs::scaled(x.q, k.view(), v.view(), x.scale), &ALL)
}

/// `[B, S, G, D]` to `[B, R, G, D]`.
fn project(x: ArrayView4<'_, f64>, by: ArrayView2<'_, f64>) -> Array4<f64> {
    let (b, tokens, g, d) = x.dim();
    Array4::from_shape_fn((b, by.dim().1, g, d), |(b, r, g, d)| {
        by.slice(s![..tokens, r]).dot(&x.slice(s![b, .., g, d]))
    })
}
