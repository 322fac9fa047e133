//! One token, for decoding.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayViewMut4};

use super::Inputs;
use crate::{Error, fast_weights};

/// One token of each sequence, `q: [S, 1, H, K]`.
pub fn step(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    let mut out = Array4::zeros(x.v.dim());
    step_into(x, state, out.as_slice_mut().unwrap_or_default(), cx)?;
    Ok(out)
}

/// As [`step`], into `out`, contiguous `[S, 1, H, V]`. Allocates nothing.
pub fn step_into(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, out: &mut [f32], cx: &Cx) -> Result<(), Error> {
    fast_weights::step(&x.kernel(), state, out, cx)
}
