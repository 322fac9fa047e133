//! The sequences of a batch, and views split into tokens.

use std::borrow::Cow;
use std::ops::Range;

use longreach_simd::Cx;
use ndarray::{ArrayView, Axis, Dimension, RemoveAxis};

use crate::Error;

/// How the tokens `[B, T]` of a call form sequences. Each sequence has its own state.
#[derive(Clone, Copy, Debug, Default)]
pub enum Sequences<'a> {
    /// Each row of the batch is a sequence.
    #[default]
    Batch,
    /// The batch has one row, in which sequences are concatenated; sequence `i` is tokens `bounds[i] .. bounds[i + 1]`
    /// (`cu_seqlens` in other implementations). Sequences may be empty.
    Packed(&'a [usize]),
}

impl Sequences<'_> {
    /// The number of sequences in a batch of `batch` rows.
    pub fn count(&self, batch: usize) -> usize {
        match self {
            Sequences::Batch => batch,
            Sequences::Packed(bounds) => bounds.len().saturating_sub(1),
        }
    }

    /// The tokens of each sequence, as ranges of `0 .. B T`. An error if the bounds do not cover the tokens in order.
    pub(crate) fn ranges(&self, op: &'static str, batch: usize, tokens: usize) -> Result<Vec<Range<usize>>, Error> {
        Ok(self.cut(op, batch, tokens)?.iter().collect())
    }
}

impl<'a> Sequences<'a> {
    /// As [`Sequences::ranges`], without allocating.
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

/// The tokens of each sequence, as ranges of `0 .. B T`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ranges<'a> {
    sequences: Sequences<'a>,
    count: usize,
    /// Tokens per row of the batch.
    tokens: usize,
}

impl Ranges<'_> {
    /// The number of sequences.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The tokens of sequence `i`.
    #[inline(always)]
    pub(crate) fn get(&self, i: usize) -> Range<usize> {
        match self.sequences {
            Sequences::Batch => i * self.tokens..(i + 1) * self.tokens,
            Sequences::Packed(bounds) => bounds[i]..bounds[i + 1],
        }
    }

    /// The tokens of each sequence.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = Range<usize>> {
        (0..self.count).map(|i| self.get(i))
    }
}

/// Splits a view `[B, T, …]` into `B T` slices, one per token. An error if a token is not contiguous.
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

/// The tokens of a view `[B, T, …]`, one slice each.
#[derive(Debug)]
pub(crate) enum Rows<'a> {
    /// All tokens are contiguous, each of this width.
    Contiguous(&'a [f32], usize),
    /// One slice for all tokens: a broadcast view.
    Broadcast(&'a [f32]),
    /// Tokens at arbitrary addresses.
    Scattered(Vec<&'a [f32]>),
}

impl<'a> Rows<'a> {
    pub(crate) fn of<D>(op: &'static str, input: &'static str, x: &'a ArrayView<'_, f32, D>) -> Result<Self, Error>
    where
        D: Dimension + RemoveAxis,
        D::Smaller: RemoveAxis,
    {
        match x.as_slice() {
            Some(all) if !all.is_empty() => Ok(Self::Contiguous(all, all.len() / (x.shape()[0] * x.shape()[1]))),
            _ if x.strides()[..2] == [0, 0] && !x.is_empty() => {
                let row = x.view().index_axis_move(Axis(0), 0).index_axis_move(Axis(0), 0);
                row.to_slice().map(Self::Broadcast).ok_or(Error::Layout { op, input })
            }
            _ => tokens(op, input, x).map(Self::Scattered),
        }
    }

    /// Token `t`.
    #[inline(always)]
    pub(crate) fn get(&self, t: usize) -> &'a [f32] {
        match self {
            Self::Contiguous(all, width) => &all[t * width..(t + 1) * width],
            Self::Broadcast(row) => row,
            Self::Scattered(rows) => rows[t],
        }
    }
}

/// The elements of a view in row-major order; copied only if the view has another layout.
pub(crate) fn contiguous<'v, F: Copy, D: Dimension>(x: &'v ArrayView<'_, F, D>) -> Cow<'v, [F]> {
    x.as_slice().map_or_else(|| x.iter().copied().collect(), Cow::Borrowed)
}

/// Splits the outputs and states of one decoding step into blocks of consecutive heads and calls
/// `f(first_head, outputs, states)` in parallel; a head has `output_size` and `state_size` elements. A block's states
/// are contiguous, for the sake of the hardware prefetcher, and there are at least two blocks per thread where heads
/// permit.
pub(crate) fn for_each_head_block(
    cx: &Cx,
    (out, output_size): (&mut [f32], usize),
    (states, state_size): (&mut [f32], usize),
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    const BLOCK_NUMBERS: usize = 64 * 1024;
    let heads = states.len() / state_size.max(1);
    let block = (BLOCK_NUMBERS / state_size.max(1)).min(heads.div_ceil(2 * cx.team.threads())).max(1);
    let (outs, states) = ((out, block * output_size), (states, block * state_size));
    cx.team.for_each_pieces(outs, states, |i, out, states| f(i * block, out, states));
}

/// Heads of one sequence that a task interleaves, a few tokens of each at a time: the rows of a token's consecutive
/// heads are contiguous in memory. Limited so that there are at least two tasks per thread.
pub(crate) fn heads_per_task(sequences: usize, heads: usize, cx: &Cx) -> usize {
    (sequences * heads).div_ceil(2 * cx.team.threads()).clamp(1, heads.max(1))
}
