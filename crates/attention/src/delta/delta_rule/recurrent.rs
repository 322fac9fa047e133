//! The forward pass of the matrix-state kernel.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayViewMut4};

use super::Inputs;
use crate::{Error, fast_weights};

/// Returns the outputs, `[B, T, H, V]`, of whole sequences or segments of them. `state` `[S, H, K, V]` is updated in
/// place.
pub fn recurrent(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    fast_weights::forward(&x.kernel(), state, cx)
}
