//! The selection of blocks.

use longreach_simd::Cx;
use longreach_simd::product::Stored;
use ndarray::{Array4, ArrayView4};

use super::{InfLlmV2, OP};
use crate::softmax::selected::{Scored, add_softmax, choose, highest, means};
use crate::softmax::{Inputs, Selected};
use crate::{Error, error};

/// Selects the blocks that the queries of each group attend to, as a pattern for the kernel. Keys are given after
/// rotary embedding, if any. Errors on wrong shapes and parameters.
pub fn select<T: Stored>(x: &Inputs<'_, T>, of: &InfLlmV2, cx: &Cx) -> Result<Selected, Error> {
    of.check(x)?;
    let summaries = means(x.k, of.kernel, of.stride, false, cx);
    among(x.q, &Summarised { summaries: &[summaries.view()], scale: x.scale, offset: x.offset }, of, cx)
}

/// The keys that [`select_from`] scores queries against.
#[derive(Clone, Copy, Debug)]
pub struct Summarised<'a> {
    /// The [`summaries`] of a text up to the last query in segments `[B, n, G, D]`, oldest first. Those that are missing
    /// count as not seen.
    pub summaries: &'a [ArrayView4<'a, f32>],
    /// The factor of the scores.
    pub scale: f32,
    /// The position of the first query.
    pub offset: usize,
}

/// As [`select`], for queries `q: [B, T, H, D]` and summaries that are given, such as those of a cache. Errors on wrong
/// shapes and parameters.
pub fn select_from<T: Stored>(
    q: ArrayView4<'_, T>,
    k: &Summarised<'_>,
    of: &InfLlmV2,
    cx: &Cx,
) -> Result<Selected, Error> {
    of.parameters()?;
    let (b, t, h, d) = q.dim();
    let groups = k.summaries.first().map_or(1, |summaries| summaries.dim().2);
    error::parameter(OP, "groups", groups > 0 && h.is_multiple_of(groups), groups, format!("a divisor of {h} heads"))?;
    for summaries in k.summaries {
        error::shape(OP, "summaries", &[b, summaries.dim().1, groups, d], summaries.shape())?;
    }
    let last = k.offset.checked_add(t).filter(|last| *last / of.block < u32::MAX as usize);
    error::parameter(OP, "offset", last.is_some(), k.offset, "positions whose blocks fit into 32 bits")?;
    among(q, k, of, cx)
}

/// The means of all complete windows of keys `k: [B, S, G, D]`, which begin at multiples of the stride from the first:
/// `[B, n, G, D]`. A mean does not depend on the keys around its window, so that a text may be summarised in parts. Errors
/// on wrong parameters.
pub fn summaries<T: Stored>(k: ArrayView4<'_, T>, of: &InfLlmV2, cx: &Cx) -> Result<Array4<f32>, Error> {
    of.parameters()?;
    Ok(means(k, of.kernel, of.stride, false, cx))
}

fn among<T: Stored>(q: ArrayView4<'_, T>, k: &Summarised<'_>, of: &InfLlmV2, cx: &Cx) -> Result<Selected, Error> {
    let (b, t, _, _) = q.dim();
    let n: usize = k.summaries.iter().map(|summaries| summaries.dim().1).sum();
    let groups = k.summaries.first().map_or(1, |summaries| summaries.dim().2);
    let lists = choose(
        &Scored { q, offset: k.offset, keys: k.summaries, groups },
        |i| if of.dense(i) { 0 } else { of.visible(i, n) },
        |i, products| {
            let own = i / of.block;
            if of.dense(i) {
                return (0..=own as u32).collect();
            }
            let mut sum = vec![0.0f32; n];
            for scores in products {
                scores.iter_mut().for_each(|y| *y *= k.scale);
                add_softmax(cx.isa, scores, &mut sum);
            }
            let score = |block: usize| match of.forced(block, own) {
                true => f32::INFINITY,
                false => sum[of.pooled(block, n)].iter().fold(0.0f32, |a, b| a.max(*b)),
            };
            highest(&(0..=own).map(score).collect::<Vec<_>>(), of.chosen())
        },
        cx,
    );
    Selected::new(OP, of.block, (b, groups, k.offset..k.offset + t), lists)
}
