//! The gradient: that of the general transition, and from `a = κ̂`, `b = −κ̂ ⊙ a` back to `κ̂` and the rate.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayView4, Zip};

use super::{Inputs, Transition};
use crate::Error;
use crate::delta::dplr;

/// Gradients to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, H, K]`
    pub q: Array4<f32>,
    /// `[B, T, H, K]`
    pub k: Array4<f32>,
    /// `[B, T, H, V]`
    pub v: Array4<f32>,
    /// `[B, T, H, K]`
    pub g: Array4<f32>,
    /// `[B, T, H, K]`
    pub kappa: Array4<f32>,
    /// `[B, T, H, K]`
    pub a: Array4<f32>,
    /// To the state before the first token, `[S, H, K, V]`
    pub state: Array4<f32>,
}

/// Gradients given those of the output, `d_o: [B, T, H, V]`, and of the state after the last token, `d_state`.
///
/// `state` is the one before the first token, as the forward call received it.
pub fn backward(
    x: &Inputs<'_>,
    state: ArrayView4<'_, f32>,
    d_o: ArrayView4<'_, f32>,
    d_state: ArrayView4<'_, f32>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    let dplr::Gradient { q, k, v, a: mut kappa, b: mut a, g, state } =
        dplr::backward(&Transition::of(x, cx)?.general(x), state, d_o, d_state, cx)?;
    Zip::from(&mut kappa).and(&mut a).and(x.kappa).and(x.a).for_each(|d_kappa, d, kappa, a| {
        *d_kappa -= *d * a;
        *d *= -kappa;
    });
    Ok(Gradient { q, k, v, g, kappa, a, state })
}
