//! The gradient: a forward and a backward sweep over the tokens of a head, one segment of tokens at a time,
//! alternating between the consecutive heads of a task, whose rows are contiguous for each token.
//!
//! With `D_t` the gradient to the state after token `t`, and `w_t = S_{t-1}ᵀ a_t` the vector that is erased:
//!
//! $$ D_t = e^{g_{t+1}} \odot D_{t+1} + a_{t+1}\, dw_{t+1}^\top + s\,q_t\, do_t^\top, \quad dv_t = D_t^\top k_t, \quad dw_t = D_t^\top b_t, $$
//! $$ dq_t = s\,S_t\, do_t, \quad da_t = S_{t-1} dw_t, \quad dk_t = D_t v_t, \quad db_t = D_t w_t. $$
//!
//! Reads along the keys are passes over the transposed matrices, so that no sum across lanes is needed. The gradient
//! to the gate is a suffix sum over tokens. With `X_t = ⟨e^{g_t} S_{t-1}, D_t⟩`, a number per row,
//!
//! $$ X_t = X_{t+1} + a_{t+1} \odot \hat{da}_{t+1} + q_t \odot \hat{dq}_t - b_t \odot \hat{db}_t - k_t \odot \hat{dk}_t, $$
//!
//! where the hats exclude what a token reads of its own writes: the matrices are read after the gate has acted and
//! before the token is written, `dq̂_t = s e^{g_t} S_{t-1} do_t`, `dâ_{t+1} = e^{g_t} S_{t-1} dw_{t+1}`,
//! `dk̂_t = e^{g_{t+1}} D_{t+1} v_t`, `db̂_t = e^{g_{t+1}} D_{t+1} w_t`. The excluded terms would appear in both sides
//! of the difference in Yang et al. 2024 (GLA), §C, which is without `a` and `b`, and cancel; under strong decay they
//! are far larger than the difference. `own.rs` adds them to the gradients afterwards. For the same reason the first
//! sum excludes the last token's write, after which the final state has no gate.
//!
//! The sum restarts at every segment, from `⟨e^{g_t} S_{t-1}, D_t⟩` computed from the matrices, so its rounding error
//! does not grow with the length of the sequence.
//!
//! Memory: one state of `K V` numbers per segment of 16 to 128 tokens and, with erasure, `V` numbers per token for
//! `w`, of the heads being worked on only.

use std::sync::atomic::Ordering;

use longreach_simd::cache::NON_TEMPORAL_ABOVE;
use longreach_simd::split::Part;
use longreach_simd::{Cx, memory};
use ndarray::{Array2, Array3, Array4, ArrayD, ArrayView4, Axis};

use super::{Dims, Gradient, Inputs, Tokens};
use crate::sequences::{Rows, heads_per_task};
use crate::{Error, error};

mod head;
mod own;
mod segment;
mod token;

/// Returns the gradients, given those to the output, `[B, T, H, V]`, and to the state after the last token. `state` is
/// the state before the first token.
pub(crate) fn gradient(
    x: &Inputs<'_>,
    state: ArrayView4<'_, f32>,
    d_o: ArrayView4<'_, f32>,
    d_state: ArrayView4<'_, f32>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    gradient_times(x, state, (d_o, None), d_state, cx)
}

/// As [`gradient`], where the gradient to the output is `d_o` times a factor per token and head, `[B, T, H]`.
pub(crate) fn gradient_times(
    x: &Inputs<'_>,
    state: ArrayView4<'_, f32>,
    (d_o, by): (ArrayView4<'_, f32>, Option<&Array3<f32>>),
    d_state: ArrayView4<'_, f32>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    let (op, input) = (x.op, Tokens::of(x, state.shape(), cx)?);
    let Dims { b, t, g: groups, h: heads, k, v } = input.dims;
    error::shape(op, "d o", x.v.shape(), d_o.shape())?;
    error::shape(op, "d state", state.shape(), d_state.shape())?;
    if let Some(by) = by {
        error::shape(op, "factors of d o", &[b, t, heads], by.shape())?;
    }
    if b * t * heads * k * v == 0 {
        return empty_gradient(&input, d_state);
    }
    let by = by.map(|by| by.as_standard_layout());
    let by = by.as_ref().and_then(|by| by.as_slice());
    let d_o = Rows::of(op, "d o", &d_o)?;
    let state: Vec<f32> = state.iter().copied().collect();
    let mut d_state: Vec<f32> = d_state.iter().copied().collect();
    let buffer = |there: bool, width: usize| memory::unwritten(if there { b * t * heads * width } else { 0 });
    let general = input.erase.is_some();
    let mut by_head = ByHead {
        q: buffer(true, k),
        k: buffer(true, k),
        v: buffer(true, v),
        g: buffer(input.g.is_some(), input.gate_width()),
        beta: buffer(input.beta.is_some(), 1),
        a: buffer(general, k),
        b: buffer(general, k),
        bonus: memory::zeros(if input.bonus.is_some() { input.ranges.len() * heads * k } else { 0 }),
    };
    {
        let block = heads_per_task(input.ranges.len(), heads, cx);
        let mut tasks = Vec::new();
        let mut parts = by_head.parts(&input);
        let mut states = state.chunks((k * v).max(1)).zip(d_state.chunks_mut((k * v).max(1)));
        for range in input.ranges.iter() {
            let mut of_range = Vec::with_capacity(heads);
            for h in 0..heads {
                let (state, d_state) = states.next().unwrap_or((&[], &mut []));
                let Some(to) = parts.next() else { continue };
                of_range.push(head::Head {
                    x: &input,
                    isa: cx.isa,
                    d_o: &d_o,
                    by,
                    range: range.clone(),
                    h,
                    state,
                    d_state,
                    to,
                    non_temporal: b * t * heads * k.min(v) > NON_TEMPORAL_ABOVE,
                });
            }
            let mut of_range = of_range.into_iter();
            while of_range.len() > 0 {
                tasks.push(head::Heads(of_range.by_ref().take(block).collect()));
            }
        }
        cx.team.for_each(tasks, |heads| cx.isa.run(heads));
    }
    if input.positive_gate.load(Ordering::Relaxed) {
        x.check(&x.state_shape())?;
    }
    let shaped = |x: Vec<f32>, width: usize| {
        let there = if x.is_empty() { 0 } else { t };
        Array4::from_shape_vec((b, there, heads, width), x).map_err(|_| Error::Layout { op, input: "d o" })
    };
    let gates = input.gate_width();
    let mut bonus = Array2::zeros((heads, if input.bonus.is_some() { k } else { 0 }));
    for (i, part) in by_head.bonus.chunks(k.max(1)).enumerate() {
        bonus.row_mut(i % heads).iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
    }
    let there = if by_head.beta.is_empty() { 0 } else { t };
    Ok(Gradient {
        q: sum_groups(shaped(by_head.q, k)?, groups),
        k: sum_groups(shaped(by_head.k, k)?, groups),
        v: shaped(by_head.v, v)?,
        g: of_gate(shaped(by_head.g, gates)?, &input),
        beta: Array3::from_shape_vec((b, there, heads), by_head.beta)
            .map_err(|_| Error::Layout { op, input: "beta" })?,
        a: shaped(by_head.a, k)?,
        b: shaped(by_head.b, k)?,
        u: bonus,
        state: Array4::from_shape_vec((input.ranges.len(), heads, k, v), d_state)
            .map_err(|_| Error::Layout { op, input: "state" })?,
    })
}

/// Gives the gradient of one gate per head its shape, `[B, T, H]`.
fn of_gate(g: Array4<f32>, x: &Tokens<'_>) -> ArrayD<f32> {
    if x.by_key || x.g.is_none() { g.into_dyn() } else { g.index_axis_move(Axis(3), 0).into_dyn() }
}

/// The gradients if there are no tokens or the state is empty: the gradient to the state is passed through.
fn empty_gradient(x: &Tokens<'_>, d_state: ArrayView4<'_, f32>) -> Result<Gradient, Error> {
    let Dims { b, t, g, h, k, v } = x.dims;
    let buffer = |there: bool, heads: usize, width: usize| Array4::zeros((b, if there { t } else { 0 }, heads, width));
    Ok(Gradient {
        q: buffer(true, g, k),
        k: buffer(true, g, k),
        v: buffer(true, h, v),
        g: of_gate(buffer(x.g.is_some(), h, x.gate_width()), x),
        beta: buffer(x.beta.is_some(), h, 1).index_axis_move(Axis(3), 0),
        a: buffer(x.erase.is_some(), h, k),
        b: buffer(x.erase.is_some(), h, k),
        u: Array2::zeros((h, if x.bonus.is_some() { k } else { 0 })),
        state: d_state.as_standard_layout().into_owned(),
    })
}

/// Sums the gradients of the heads that share a key.
fn sum_groups(x: Array4<f32>, groups: usize) -> Array4<f32> {
    let (b, t, h, k) = x.dim();
    if h == groups {
        return x;
    }
    let heads = h / groups;
    let mut out = Array4::zeros((b, t, groups, k));
    for h in 0..h {
        let mut group = out.index_axis_mut(Axis(2), h / heads);
        group += &x.index_axis(Axis(2), h);
    }
    out
}

/// Gradients per head, `[B T, H, …]`; empty for absent inputs.
struct ByHead<T> {
    q: T,
    k: T,
    v: T,
    g: T,
    beta: T,
    a: T,
    b: T,
    /// `[S, H, K]`
    bonus: T,
}

impl ByHead<Vec<f32>> {
    /// Splits the gradients by sequence and head.
    fn parts<'a>(&'a mut self, x: &Tokens<'_>) -> impl Iterator<Item = ByHead<Part<'a>>> {
        let Dims { h, k, v, .. } = x.dims;
        let ranges = x.ranges;
        let all = |memory: &'a mut Vec<f32>, width: usize| {
            let there = !memory.is_empty();
            let mut rest = &mut memory[..];
            let mut parts = Vec::with_capacity(ranges.len() * h);
            for range in ranges.iter() {
                let (mine, others) = rest.split_at_mut(if there { range.len() * h * width } else { 0 });
                rest = others;
                match there {
                    true => parts.extend(Part::whole(mine, h * width).columns(width)),
                    false => parts.extend((0..h).map(|_| Part::empty())),
                }
            }
            parts.into_iter()
        };
        let (mut q, mut dk, mut dv) = (all(&mut self.q, k), all(&mut self.k, k), all(&mut self.v, v));
        let (mut g, mut beta) = (all(&mut self.g, x.gate_width()), all(&mut self.beta, 1));
        let (mut a, mut b) = (all(&mut self.a, k), all(&mut self.b, k));
        let mut bonus = self.bonus.chunks_mut(k.max(1));
        std::iter::from_fn(move || {
            Some(ByHead {
                q: q.next()?,
                k: dk.next()?,
                v: dv.next()?,
                g: g.next()?,
                beta: beta.next()?,
                a: a.next()?,
                b: b.next()?,
                bonus: bonus.next().map_or_else(Part::empty, |row| Part::whole(row, k)),
            })
        })
    }
}
