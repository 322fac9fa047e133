//! The gradient: that of the scan, then through the division and the features.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayView4};

use super::Inputs;
use crate::Error;

/// Gradients to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, G, K]`
    pub q: Array4<f32>,
    /// `[B, T, G, K]`
    pub k: Array4<f32>,
    /// `[B, T, H, V]`
    pub v: Array4<f32>,
    /// To the state before the first token
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
    x.check(state.shape())?;
    let (q, k) = (x.map.apply(x.q, cx), x.map.apply(x.k, cx));
    let [dq, dk, v, state] = x.call().backward([&q, &k], x.v, state, d_o, d_state, cx)?;
    Ok(Gradient { q: x.map.backward(x.q, &q, dq, cx), k: x.map.backward(x.k, &k, dk, cx), v, state })
}
