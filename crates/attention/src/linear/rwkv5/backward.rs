//! The gradient of RWKV-6, with that to the decay summed over the tokens.

use longreach_simd::Cx;
use ndarray::{Array2, Array4, ArrayView4};

use super::{Inputs, OP};
use crate::linear::features::sum_of_tokens;
use crate::{Error, fast_weights};

/// Gradients to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, H, K]`
    pub q: Array4<f32>,
    /// `[B, T, H, K]`
    pub k: Array4<f32>,
    /// `[B, T, H, V]`
    pub v: Array4<f32>,
    /// `[H, K]`
    pub g: Array2<f32>,
    /// `[H, K]`
    pub u: Array2<f32>,
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
    let fast_weights::Gradient { q, k, v, g, u, state, .. } = fast_weights::backward(x, state, d_o, d_state, cx)?;
    let g = sum_of_tokens(g.as_slice().unwrap_or_default(), u.len());
    let g = Array2::from_shape_vec(u.dim(), g).map_err(|_| Error::Layout { op: OP, input: "g" })?;
    Ok(Gradient { q, k, v, g, u, state })
}
