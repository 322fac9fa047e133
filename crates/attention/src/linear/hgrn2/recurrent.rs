//! Token by token: GLA's.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayViewMut4};

use super::{Inputs, keys};
use crate::Error;
use crate::linear::gla;

/// The outputs, `[B, T, H, V]`, of whole sequences or parts of them. `state` `[S, H, K, V]` is read and left for the next tokens.
pub fn recurrent(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    gla::recurrent(&x.with_keys(&keys(x.g, cx)), state, cx)
}
