//! The gradient of the scan, with that to the decays summed over the tokens.

use longreach_simd::Cx;
use ndarray::{Array1, Array4, ArrayView4};

use super::{Inputs, OP, scan};
use crate::Error;
use crate::linear::features::sum_of_tokens;

/// Gradients to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, G, K]`
    pub q: Array4<f32>,
    /// `[B, T, G, K]`
    pub k: Array4<f32>,
    /// `[B, T, H, V]`
    pub v: Array4<f32>,
    /// `[H]`
    pub g: Array1<f32>,
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
    let scan::Gradient { q, k, v, g, state, .. } =
        scan::backward(&x.scan()?, state, d_o, d_state, cx).map_err(|e| e.of(OP))?;
    let g = sum_of_tokens(g.as_slice().unwrap_or_default(), g.dim().2);
    Ok(Gradient { q, k, v, g: g.into(), state })
}
