//! Merges attention over disjoint sets of keys exactly.

use longreach_simd::Cx;
use ndarray::{ArrayView1, ArrayViewMut1, Axis, Zip, s};

use super::Output;
use crate::{Error, error};

/// Tokens per task.
const TOKENS: usize = 64;

/// Attention over all keys from attention over subsets of them: `o = Σ e^{lse_n − lse} o_n`. A key in two subsets
/// counts twice. An error if there are no parts, or their shapes differ.
///
/// For the gradient, call [`backward`](super::backward) on each part with the merged output; the sum is exact.
pub fn merge(op: &'static str, parts: Vec<Output>, cx: &Cx) -> Result<Output, Error> {
    let mut parts = parts.into_iter();
    let first = parts.next().ok_or(Error::Parameter {
        op,
        parameter: "parts",
        want: "at least one".into(),
        found: "none".into(),
    });
    let mut merged = first?;
    for part in parts {
        error::shape(op, "out", merged.out.shape(), part.out.shape())?;
        error::shape(op, "lse", merged.lse.shape(), part.lse.shape())?;
        let mine =
            merged.out.axis_chunks_iter_mut(Axis(1), TOKENS).zip(merged.lse.axis_chunks_iter_mut(Axis(1), TOKENS));
        let theirs = part.out.axis_chunks_iter(Axis(1), TOKENS).zip(part.lse.axis_chunks_iter(Axis(1), TOKENS));
        cx.team.for_each(mine.zip(theirs), |((mut out, mut lse), (more, others))| {
            Zip::from(out.rows_mut()).and(more.rows()).and(&mut lse).and(&others).for_each(add);
        });
    }
    Ok(merged)
}

/// As [`merge`], where a row of `part` stands for `2^level` consecutive tokens.
pub(super) fn absorb(all: &mut Output, part: &Output, level: u32, cx: &Cx) {
    let tasks = all.out.axis_chunks_iter_mut(Axis(1), TOKENS).zip(all.lse.axis_chunks_iter_mut(Axis(1), TOKENS));
    cx.team.for_each(tasks.enumerate().collect::<Vec<_>>(), |(task, (mut out, mut lse))| {
        for ((b, t, h), lse) in lse.indexed_iter_mut() {
            let cell = (task * TOKENS + t) >> level;
            add(out.slice_mut(s![b, t, h, ..]), part.out.slice(s![b, cell, h, ..]), lse, &part.lse[[b, cell, h]]);
        }
    });
}

/// Merges a row over more keys into `out` and `lse`.
fn add(mut out: ArrayViewMut1<'_, f32>, more: ArrayView1<'_, f32>, lse: &mut f32, other: &f32) {
    let top = lse.max(*other);
    if top == f32::NEG_INFINITY {
        return;
    }
    let (mine, theirs) = ((*lse - top).exp(), (other - top).exp());
    let sum = mine + theirs;
    let (mine, theirs) = (mine / sum, theirs / sum);
    out.zip_mut_with(&more, |o, m| *o = *o * mine + m * theirs);
    *lse = top + sum.ln();
}
