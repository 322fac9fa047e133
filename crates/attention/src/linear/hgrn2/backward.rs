//! The gradient of GLA, with `dg −= e^g ⊙ dk`.

use longreach_simd::{Cx, Lanes, math};
use ndarray::{Array4, ArrayView4};

use super::{Inputs, OP};
use crate::linear::features::{OfRows, each};
use crate::{Error, fast_weights};

/// Gradients to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, H, K]`
    pub q: Array4<f32>,
    /// `[B, T, H, K]`
    pub g: Array4<f32>,
    /// `[B, T, H, V]`
    pub v: Array4<f32>,
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
    let fast_weights::Gradient { q, k, v, g, state, .. } = fast_weights::backward(x, state, d_o, d_state, cx)?;
    let mut g = g.into_dimensionality().map_err(|_| Error::Layout { op: OP, input: "g" })?;
    each(cx, &ThroughKey, [x.g, k.view()], &mut g);
    Ok(Gradient { q, g, v, state })
}

/// `−= e^g ⊙ dk`
struct ThroughKey;

impl OfRows<2> for ThroughKey {
    #[inline(always)]
    fn row<S: Lanes>(&self, s: S, _: usize, [g, dk]: [&[f32]; 2], out: &mut [f32]) {
        for ((out, g), dk) in out.chunks_mut(S::LANES).zip(g.chunks(S::LANES)).zip(dk.chunks(S::LANES)) {
            let through = s.mul(math::exp(s, s.load_part(g)), s.load_part(dk));
            let rest = s.sub(s.load_part(out), through);
            s.store_part(out, rest);
        }
    }
}
