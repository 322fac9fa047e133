//! The gradient: that of the general transition, then from `a = κ̂`, `b = −κ̂ ⊙ a` back to `κ̂` and the rate.

use longreach_simd::{Cx, Lanes};
use ndarray::{Array4, ArrayD, ArrayView4};

use super::Inputs;
use crate::linear::{OfRows, each, unwritten};
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
    /// `[B, T, H, K]`
    pub g: ArrayD<f32>,
    /// `[B, T, H, K]`
    pub kappa: Array4<f32>,
    /// `[B, T, H, K]`
    pub a: Array4<f32>,
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
    let fast_weights::Gradient { q, k, v, a: mut kappa, b, g, state, .. } =
        fast_weights::backward(x, state, d_o, d_state, cx)?;
    let mut a = unwritten(b.dim());
    each(cx, &ToRate, [x.kappa, b.view()], &mut a);
    each(cx, &ToKappa, [x.a, b.view()], &mut kappa);
    Ok(Gradient { q, k, v, g, kappa, a, state })
}

/// `−κ̂ ⊙ db`
struct ToRate;

impl OfRows<2> for ToRate {
    #[inline(always)]
    fn row<S: Lanes>(&self, s: S, _: usize, [kappa, db]: [&[f32]; 2], out: &mut [f32]) {
        for ((out, kappa), db) in out.chunks_mut(S::LANES).zip(kappa.chunks(S::LANES)).zip(db.chunks(S::LANES)) {
            s.store_part(out, s.sub(s.splat(0.0), s.mul(s.load_part(kappa), s.load_part(db))));
        }
    }
}

/// `−= a ⊙ db`
struct ToKappa;

impl OfRows<2> for ToKappa {
    #[inline(always)]
    fn row<S: Lanes>(&self, s: S, _: usize, [a, db]: [&[f32]; 2], out: &mut [f32]) {
        for ((out, a), db) in out.chunks_mut(S::LANES).zip(a.chunks(S::LANES)).zip(db.chunks(S::LANES)) {
            let rest = s.sub(s.load_part(out), s.mul(s.load_part(a), s.load_part(db)));
            s.store_part(out, rest);
        }
    }
}
