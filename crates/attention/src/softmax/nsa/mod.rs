//! Native sparse attention: block means, selected blocks and a window, gated by the query.
//!
//! $$ o_i = g_i^{(1)}\, \mathrm{attn}(q_i, \bar K, \bar V) + g_i^{(2)}\, \mathrm{attn}(q_i, K_{I(i)}, V_{I(i)}) +
//!    g_i^{(3)}\, \mathrm{attn}(q_i, K_{i-w<j\le i}, V_{i-w<j\le i}) $$
//!
//! The mean of a block is visible once the block has ended. `I(i)` are the query's own block, the first, the one before
//! its own, and those of the highest weight in the first term, averaged over the heads of a group, in this order and up
//! to `top` in total; ties are broken in favour of the earlier block. The gradient treats the selection as constant.
//! O(T (T / b + k b + w) H D) time. Yuan et al. 2025, eq. 5–12, with means as the compression, as in
//! flash-linear-attention.

use longreach_simd::Cx;
use longreach_simd::product::Stored;
use ndarray::{Array4, ArrayView4, Axis, Zip, s};
use serde::Deserialize;

use super::selected::{Scored, add_softmax, choose, highest, means};
use super::window::Window;
use super::{Cotangent, Gradient, Inputs, Output, Selected};
use crate::{Error, Sequences, error};

mod naive;
pub(crate) mod operation;
mod pattern;

pub use naive::naive;
use pattern::Ended;

const OP: &str = "nsa";

/// The parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nsa {
    /// `b`, keys per block
    pub block: usize,
    /// `k`, the number of selected blocks, including the query's own
    pub top: usize,
    /// `w`, keys in the window, including the query's own
    pub window: usize,
}

impl Default for Nsa {
    fn default() -> Self {
        Self { block: 64, top: 16, window: 512 }
    }
}

/// The output, and what the backward pass needs.
#[derive(Clone, Debug)]
pub struct Attended {
    /// `[B, T, H, E]`
    pub out: Array4<f32>,
    /// The terms before gating: means, selected blocks, window.
    pub terms: [Output; 3],
    /// The selected blocks.
    pub selected: Selected,
}

fn check<T, F: Copy + Into<f64>>(x: &Inputs<'_, T, F>, gates: ArrayView4<'_, F>, nsa: &Nsa) -> Result<(), Error> {
    let (of, _) = x.sizes(OP)?;
    of.within(OP)?;
    error::parameter(OP, "block", nsa.block > 0, nsa.block, "at least 1")?;
    error::parameter(OP, "top", nsa.top > 0, nsa.top, "at least 1")?;
    error::parameter(OP, "window", nsa.window > 0, nsa.window, "at least 1")?;
    error::shape(OP, "gates", &[of.batch, of.queries.len(), of.heads, 3], gates.shape())?;
    let plain = x.bias.is_none() && x.alibi.is_none() && x.sinks.is_none() && x.weights.is_none() && x.keep.is_none();
    let plain = plain && matches!(x.sequences, Sequences::Batch);
    error::parameter(OP, "bias, alibi, sinks, weights, padding or packed sequences", plain, "given", "none")
}

/// The inputs of the first term.
fn summary<'a, T>(x: &Inputs<'_, T>, q: ArrayView4<'a, f32>, k: &'a Array4<f32>, v: &'a Array4<f32>) -> Inputs<'a> {
    Inputs { offset: x.offset, softcap: x.softcap, ..Inputs::scaled(q, k.view(), v.view(), x.scale) }
}

/// Selects the blocks for each group and query.
fn select<T: Stored>(x: &Inputs<'_, T>, means: &Array4<f32>, nsa: &Nsa, cx: &Cx) -> Result<Selected, Error> {
    let (of, groups) = x.sizes(OP)?;
    let lists = choose(
        &Scored { q: x.q, offset: x.offset, keys: &[means.view()], groups },
        |i| (i + 1) / nsa.block,
        |i, products| {
            let own = i / nsa.block;
            let mut weight = vec![0.0f32; own + 1];
            for scores in products.iter_mut() {
                scores.iter_mut().for_each(|y| *y = capped(x.scale * *y, x.softcap));
                add_softmax(cx.isa, scores, &mut weight);
            }
            // Forced blocks rank above any sum of weights, the query's own block first.
            let forced = 2.0 * (of.heads / groups) as f32;
            weight[0] = forced;
            weight[own.saturating_sub(1)] = forced;
            weight[own] = 2.0 * forced;
            highest(&weight, nsa.top)
        },
        cx,
    );
    Selected::new(OP, nsa.block, (of.batch, groups, of.queries), lists)
}

fn capped(y: f32, cap: Option<f32>) -> f32 {
    cap.map_or(y, |cap| cap * (y / cap).tanh())
}

/// Attention of all queries; `gates: [B, T, H, 3]`, in the paper outputs of sigmoids. Errors on wrong shapes and
/// parameters.
pub fn chunk<T: Stored>(x: &Inputs<'_, T>, gates: ArrayView4<'_, f32>, nsa: &Nsa, cx: &Cx) -> Result<Attended, Error> {
    check(x, gates, nsa)?;
    let [q, k, v] = [
        x.q.mapv(|x| x.widen()),
        means(x.k, nsa.block, nsa.block, false, cx),
        means(x.v, nsa.block, nsa.block, false, cx),
    ];
    let selected = select(x, &k, nsa, cx)?;
    let terms = [
        super::chunk(&summary(x, q.view(), &k, &v), &Ended { block: nsa.block }, cx)?,
        super::chunk(x, &selected, cx)?,
        super::chunk(x, &Window::causal(nsa.window)?, cx)?,
    ];
    let mut out = super::tile::zeros(terms[1].out.dim());
    const TOKENS: usize = 64;
    let parts = out.axis_chunks_iter_mut(Axis(1), TOKENS).zip(gates.axis_chunks_iter(Axis(1), TOKENS)).enumerate();
    cx.team.for_each(parts.collect::<Vec<_>>(), |(i, (mut out, gates))| {
        let tokens = i * TOKENS..i * TOKENS + out.len_of(Axis(1));
        let of = |n: usize| (gates.slice(s![.., .., .., n..n + 1]), terms[n].out.slice(s![.., tokens.clone(), .., ..]));
        for (gates, term) in [0, 1, 2].map(of) {
            Zip::from(&mut out).and_broadcast(gates).and(term).for_each(|out, gate, term| *out += gate * term);
        }
    });
    Ok(Attended { out, terms, selected })
}

/// The gradients with respect to the inputs and the gates, `[B, T, H, 3]`, given that of the output.
pub fn backward<T: Stored>(
    x: &Inputs<'_, T>,
    gates: ArrayView4<'_, f32>,
    nsa: &Nsa,
    attended: &Attended,
    dout: ArrayView4<'_, f32>,
    cx: &Cx,
) -> Result<(Gradient, Array4<f32>), Error> {
    check(x, gates, nsa)?;
    error::shape(OP, "d out", attended.out.shape(), dout.shape())?;
    let [q, k, v] = [
        x.q.mapv(|x| x.widen()),
        means(x.k, nsa.block, nsa.block, false, cx),
        means(x.v, nsa.block, nsa.block, false, cx),
    ];
    let mut dgates = Array4::zeros(gates.dim());
    let gated = [0, 1, 2].map(|n| &dout * &gates.slice(s![.., .., .., n..n + 1]));
    for (n, term) in attended.terms.iter().enumerate() {
        dgates.slice_mut(s![.., .., .., n]).assign(&(&term.out * &dout).sum_axis(Axis(3)));
    }
    let d = |n: usize| Cotangent { out: gated[n].view(), lse: None };
    let terms = &attended.terms;
    let mut sum = super::backward(x, &attended.selected, terms[1].view(), &d(1), cx)?;
    sum.add(&super::backward(x, &Window::causal(nsa.window)?, terms[2].view(), &d(2), cx)?, cx);
    let of_means =
        super::backward(&summary(x, q.view(), &k, &v), &Ended { block: nsa.block }, terms[0].view(), &d(0), cx)?;
    sum.q += &of_means.q;
    for (to, from) in [(&mut sum.k, &of_means.k), (&mut sum.v, &of_means.v)] {
        for n in 0..from.len_of(Axis(1)) {
            let mut to = to.slice_mut(s![.., n * nsa.block..(n + 1) * nsa.block, .., ..]);
            to.scaled_add(1.0 / nsa.block as f32, &from.slice(s![.., n..n + 1, .., ..]));
        }
    }
    Ok((sum, dgates))
}
