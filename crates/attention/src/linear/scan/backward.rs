//! The gradient: that of the matrix-state kernel, and from it those to the strength and the skip.
//!
//! With the value `β_t v_t` and the output `o_t + δ v_t`: `dv = β dṽ + δ do`, `dβ = ⟨v, dṽ⟩`, `dδ = Σ ⟨v, do⟩`.

use longreach_simd::Cx;
use ndarray::{Array1, Array2, Array3, Array4, ArrayView4, Axis, Zip, s};

use super::{Inputs, OP};
use crate::fast_weights::{self, Erase, Gate};
use crate::linear::features::{by_tokens, unwritten};
use crate::{Error, error};

/// Gradients to the inputs of the scan.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, G, K]`
    pub q: Array4<f32>,
    /// `[B, T, G, K]`
    pub k: Array4<f32>,
    /// `[B, T, H, V]`
    pub v: Array4<f32>,
    /// `[B, T, H]`; zero without a gate
    pub g: Array3<f32>,
    /// `[B, T, H]`; zero without strengths
    pub beta: Array3<f32>,
    /// `[H]`; zero without a skip
    pub skip: Array1<f32>,
    /// To the state before the first token, `[S, H, K, V]`
    pub state: Array4<f32>,
}

/// Tokens per task.
const TOKENS: usize = 64;

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
    error::shape(OP, "d_o", x.v.shape(), d_o.shape())?;
    let (b, t, heads, _) = x.v.dim();
    let written = x.beta.map(|beta| {
        let mut written = unwritten(x.v.dim());
        by_tokens(cx, &mut written, |t, to| {
            let (v, beta) = (x.v.slice(s![.., t.clone(), .., ..]), beta.slice(s![.., t, ..]));
            Zip::from(to.rows_mut()).and(v.rows()).and(beta).for_each(|mut to, v, by| {
                Zip::from(&mut to).and(&v).for_each(|to, v| *to = by * v);
            });
        });
        written
    });
    let call = fast_weights::Inputs {
        op: OP,
        q: x.q,
        k: x.k,
        v: written.as_ref().map_or(x.v, |written| written.view()),
        gate: x.g.map_or(Gate::None, Gate::Token),
        erase: Erase::None,
        bonus: None,
        scale: x.scale,
        sequences: x.sequences,
    };
    let fast_weights::Gradient { q, k, mut v, g, state, .. } = fast_weights::gradient(&call, state, d_o, d_state, cx)?;
    let (mut beta, mut skip) = (Array3::zeros((b, t, heads)), Array1::zeros(heads));
    if x.beta.is_some() || x.skip.is_some() {
        let mut d_skip = Array2::<f32>::zeros((t.div_ceil(TOKENS), heads));
        let parts = v.axis_chunks_iter_mut(Axis(1), TOKENS).zip(beta.axis_chunks_iter_mut(Axis(1), TOKENS));
        let parts: Vec<_> = parts.zip(d_skip.outer_iter_mut()).enumerate().collect();
        cx.team.for_each(parts, |(i, ((mut dv, mut d_beta), mut d_skip))| {
            let tokens = i * TOKENS..(i * TOKENS + TOKENS).min(t);
            let of = s![.., tokens.clone(), .., ..];
            let (value, d_o) = (x.v.slice(of), d_o.slice(of));
            if let Some(strength) = &x.beta {
                let strength = strength.slice(s![.., tokens, ..]);
                Zip::from(dv.rows_mut()).and(value.rows()).and(&mut d_beta).and(strength).for_each(
                    |mut dv, v, d, by| {
                        *d = v.dot(&dv);
                        dv *= *by;
                    },
                );
            }
            for (h, by) in x.skip.iter().flatten().enumerate() {
                let (mut dv, value, d_o) =
                    (dv.slice_mut(s![.., .., h, ..]), value.slice(s![.., .., h, ..]), d_o.slice(s![.., .., h, ..]));
                Zip::from(dv.rows_mut()).and(value.rows()).and(d_o.rows()).for_each(|mut dv, v, d_o| {
                    d_skip[h] += v.dot(&d_o);
                    dv.scaled_add(*by, &d_o);
                });
            }
        });
        if x.skip.is_some() {
            skip = d_skip.mapv(f64::from).sum_axis(Axis(0)).mapv(|x| x as f32);
        }
    }
    let g = g.into_dimensionality().unwrap_or_else(|_| Array3::zeros((b, t, heads)));
    Ok(Gradient { q, k, v, g, beta, skip, state })
}
