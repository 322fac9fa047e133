//! The gradient: that of the scan, then from the gate and the strength back to the step.
//!
//! `dΔ = A dg + dβ`, which is zero where the clamp was active, times the sigmoid, the derivative of softplus.

use longreach_simd::{Cx, math};
use ndarray::{Array1, Array3, Array4, ArrayView4};

use super::{Gates, Inputs, OP, scan};
use crate::Error;
use crate::linear::features::sum_of_tokens;

/// Gradients to the inputs of the scan.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, H, P]`
    pub x: Array4<f32>,
    /// To `dt` before softplus, `[B, T, H]`
    pub dt: Array3<f32>,
    /// `[H]`
    pub dt_bias: Array1<f32>,
    /// `[H]`
    pub a: Array1<f32>,
    /// `[B, T, G, N]`
    pub b: Array4<f32>,
    /// `[B, T, G, N]`
    pub c: Array4<f32>,
    /// `[H]`
    pub d: Array1<f32>,
    /// To the state before the first token, `[S, H, N, P]`
    pub state: Array4<f32>,
}

/// Returns the gradients, given those to the output, `dy: [B, T, H, P]`, and to the state after the last token,
/// `d_state`.
///
/// `state` is the state before the first token, as passed to the forward call.
pub fn backward(
    x: &Inputs<'_>,
    state: ArrayView4<'_, f32>,
    dy: ArrayView4<'_, f32>,
    d_state: ArrayView4<'_, f32>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    let gates = Gates::of(x, cx)?;
    let scan::Gradient { q, k, v, g, beta, skip, state } =
        scan::backward(&gates.scan(x), state, dy, d_state, cx).map_err(|e| e.of(OP))?;
    let of_heads = |x: &Array3<f32>| Array1::from(sum_of_tokens(x.as_slice().unwrap_or_default(), x.dim().2));
    let a = of_heads(&(&g * &gates.delta));
    let mut dt = &x.dt + &x.dt_bias;
    math::sigmoid_slice(cx, dt.as_slice_mut().unwrap_or_default());
    let (low, high) = x.dt_limit;
    let inside = gates.delta.mapv(|d| if d > low && d < high { 1.0 } else { 0.0 });
    dt *= &inside;
    dt *= &(g * x.a + beta);
    let dt_bias = of_heads(&dt);
    Ok(Gradient { x: v, dt, dt_bias, a, b: k, c: q, d: skip, state })
}
