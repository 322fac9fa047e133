//! One token, for decoding.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayViewMut4};

use super::Inputs;
use crate::Error;

/// One token of each sequence, `q: [S, 1, G, K]`. Causal only.
pub fn step(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    let mut out = Array4::zeros(x.v.dim());
    step_into(x, state, out.as_slice_mut().unwrap_or_default(), cx)?;
    Ok(out)
}

/// As [`step`], into `out`, contiguous `[S, 1, H, V]`. The features are arrays, the state stays where it is.
pub fn step_into(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, out: &mut [f32], cx: &Cx) -> Result<(), Error> {
    x.check(state.shape())?;
    x.call().step_of_features([&x.apply(x.q, cx), &x.apply(x.k, cx)], x.v, state, out, cx)
}
