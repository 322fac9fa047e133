//! The forward pass: that of RWKV-6.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayViewMut4};

use super::Inputs;
use crate::Error;
use crate::linear::rwkv6;

/// Returns the outputs, `[B, T, H, V]`, of whole sequences or segments of them. `state` `[S, H, K, V]` is updated in
/// place.
pub fn recurrent(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    rwkv6::recurrent(&x.at_every_token()?, state, cx)
}
