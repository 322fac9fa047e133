//! Which tokens belong together, and views cut into tokens.

use std::borrow::Cow;
use std::ops::Range;

use longreach_simd::Cx;
use ndarray::{ArrayView, Axis, Dimension, RemoveAxis};

use crate::Error;

/// How the tokens `[B, T]` of a call form sequences. Each sequence has a state of its own.
#[derive(Clone, Copy, Debug, Default)]
pub enum Sequences<'a> {
    /// Each row of the batch is one.
    #[default]
    Batch,
    /// The batch has one row, with sequences one behind the other; sequence `i` is tokens `bounds[i] .. bounds[i + 1]`
    /// (`cu_seqlens` elsewhere). Empty ones are allowed.
    Packed(&'a [usize]),
}

impl Sequences<'_> {
    /// How many sequences a batch of `batch` rows has.
    pub fn count(&self, batch: usize) -> usize {
        match self {
            Sequences::Batch => batch,
            Sequences::Packed(bounds) => bounds.len().saturating_sub(1),
        }
    }

    /// The tokens of each sequence, as ranges of `0 .. B T`.
    pub(crate) fn ranges(&self, op: &'static str, batch: usize, tokens: usize) -> Result<Vec<Range<usize>>, Error> {
        Ok(self.cut(op, batch, tokens)?.iter().collect())
    }
}

impl<'a> Sequences<'a> {
    /// As [`Sequences::ranges`], without a list of them.
    pub(crate) fn cut(self, op: &'static str, batch: usize, tokens: usize) -> Result<Ranges<'a>, Error> {
        if let Sequences::Packed(bounds) = self {
            let rises = bounds.windows(2).all(|w| w[0] <= w[1]);
            if batch != 1 || !rises || bounds.first() != Some(&0) || bounds.last() != Some(&tokens) {
                return Err(Error::Boundaries { op, tokens, batch, found: bounds.to_vec() });
            }
        }
        Ok(Ranges { sequences: self, count: self.count(batch), tokens })
    }
}

/// The tokens of sequences, as ranges of `0 .. B T`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ranges<'a> {
    sequences: Sequences<'a>,
    count: usize,
    /// Of a row of the batch.
    tokens: usize,
}

impl Ranges<'_> {
    /// How many sequences there are.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Those of sequence `i`.
    #[inline(always)]
    pub(crate) fn get(&self, i: usize) -> Range<usize> {
        match self.sequences {
            Sequences::Batch => i * self.tokens..(i + 1) * self.tokens,
            Sequences::Packed(bounds) => bounds[i]..bounds[i + 1],
        }
    }

    /// Those of each.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = Range<usize>> {
        (0..self.count).map(|i| self.get(i))
    }
}

/// The tokens of a view `[B, T, …]`, `B T` slices.
pub(crate) fn tokens<'v, F, D>(
    op: &'static str,
    input: &'static str,
    x: &'v ArrayView<'_, F, D>,
) -> Result<Vec<&'v [F]>, Error>
where
    D: Dimension + RemoveAxis,
    D::Smaller: RemoveAxis,
{
    let mut out = Vec::with_capacity(x.shape()[0] * x.shape()[1]);
    for b in 0..x.shape()[0] {
        let row = x.view().index_axis_move(Axis(0), b);
        for t in 0..x.shape()[1] {
            let token = row.clone().index_axis_move(Axis(0), t);
            out.push(token.to_slice().ok_or(Error::Layout { op, input })?);
        }
    }
    Ok(out)
}

/// The tokens of a view `[B, T, …]`, each a slice.
#[derive(Debug)]
pub(crate) enum Rows<'a> {
    /// One behind the other, each so wide.
    Even(&'a [f32], usize),
    /// The same for all.
    Same(&'a [f32]),
    /// Anywhere.
    Each(Vec<&'a [f32]>),
}

impl<'a> Rows<'a> {
    pub(crate) fn of<D>(op: &'static str, input: &'static str, x: &'a ArrayView<'_, f32, D>) -> Result<Self, Error>
    where
        D: Dimension + RemoveAxis,
        D::Smaller: RemoveAxis,
    {
        match x.as_slice() {
            Some(all) if !all.is_empty() => Ok(Self::Even(all, all.len() / (x.shape()[0] * x.shape()[1]))),
            _ if x.strides()[..2] == [0, 0] && !x.is_empty() => {
                let row = x.view().index_axis_move(Axis(0), 0).index_axis_move(Axis(0), 0);
                row.to_slice().map(Self::Same).ok_or(Error::Layout { op, input })
            }
            _ => tokens(op, input, x).map(Self::Each),
        }
    }

    /// Token `t`.
    #[inline(always)]
    pub(crate) fn get(&self, t: usize) -> &'a [f32] {
        match self {
            Self::Even(all, width) => &all[t * width..(t + 1) * width],
            Self::Same(row) => row,
            Self::Each(rows) => rows[t],
        }
    }
}

/// The numbers of a view in row-major order; copied only if they do not lie so.
pub(crate) fn contiguous<'v, F: Copy, D: Dimension>(x: &'v ArrayView<'_, F, D>) -> Cow<'v, [F]> {
    x.as_slice().map_or_else(|| x.iter().copied().collect(), Cow::Borrowed)
}

/// One token of each sequence: the outputs and the states, so many numbers a head of each, of heads that follow one another, of any sequences, to one call of
/// `f`, with the number of the first. States that a thread takes follow one another in memory, so that the processor sees them coming; but they are not so
/// many that a thread has none.
pub(crate) fn by_heads(
    cx: &Cx,
    (out, of_output): (&mut [f32], usize),
    (states, of_state): (&mut [f32], usize),
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    const ENOUGH: usize = 64 * 1024;
    let heads = states.len() / of_state.max(1);
    let block = (ENOUGH / of_state.max(1)).min(heads.div_ceil(2 * cx.team.threads())).max(1);
    let (outs, states) = ((out, block * of_output), (states, block * of_state));
    cx.team.for_each_pieces(outs, states, |i, out, states| f(i * block, out, states));
}

/// How many heads of one sequence a thread takes at a time, some tokens of each in turn, where there are so many sequences: a token's rows of heads that
/// follow one another are one piece of memory; but not so many that a thread has none.
pub(crate) fn side_by_side(sequences: usize, heads: usize, cx: &Cx) -> usize {
    (sequences * heads).div_ceil(2 * cx.team.threads()).clamp(1, heads.max(1))
}
