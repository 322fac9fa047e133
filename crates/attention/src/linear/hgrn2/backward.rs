//! The gradient: GLA's, with `dg −= e^g ⊙ dk`.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayView4, Zip, s};

use super::{Inputs, keys};
use crate::Error;
use crate::linear::features::by_tokens;
use crate::linear::gla;

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
    let keys = keys(x.g, cx);
    let gla::Gradient { q, k, v, mut g, state } = gla::backward(&x.with_keys(&keys), state, d_o, d_state, cx)?;
    by_tokens(cx, &mut g, |t, d| {
        let (k, keys) = (k.slice(s![.., t.clone(), .., ..]), keys.slice(s![.., t, .., ..]));
        Zip::from(d).and(&k).and(&keys).for_each(|d, k, key| *d -= (1.0 - key) * k);
    });
    Ok(Gradient { q, g, v, state })
}
