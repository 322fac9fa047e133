//! The backward pass of the matrix-state kernel.

use longreach_simd::Cx;
use ndarray::{Array3, Array4, ArrayView4};

use super::Inputs;
use crate::{Error, fast_weights};

/// Gradients to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, G, K]`
    pub q: Array4<f32>,
    /// `[B, T, G, K]`
    pub k: Array4<f32>,
    /// `[B, T, H, V]`
    pub v: Array4<f32>,
    /// `[B, T, H, K]`
    pub g: Array4<f32>,
    /// `[B, T, H]`
    pub beta: Array3<f32>,
    /// To the state before the first token, `[S, H, K, V]`
    pub state: Array4<f32>,
}

/// Returns the gradients, given those to the output, `d_o: [B, T, H, V]`, and to the state after the last token,
/// `d_state`.
///
/// `state` is the state before the first token, as passed to the forward call.
pub fn backward(
    x: &Inputs<'_>,
    state: ArrayView4<'_, f32>,
    d_o: ArrayView4<'_, f32>,
    d_state: ArrayView4<'_, f32>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    let g = fast_weights::backward(&x.kernel(), state, d_o, d_state, cx)?;
    Ok(Gradient { q: g.q, k: g.k, v: g.v, g: g.g, beta: g.beta, state: g.state })
}
