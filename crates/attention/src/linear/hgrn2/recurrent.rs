//! Token by token, keys made where they are read.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayViewMut4};

use super::Inputs;
use crate::{Error, fast_weights};

/// The outputs, `[B, T, H, V]`, of whole sequences or parts of them. `state` `[S, H, K, V]` is read and left for the next tokens.
pub fn recurrent(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    fast_weights::forward(&x.kernel(), state, cx)
}
