//! Which tokens belong together, and views cut into tokens.

use std::borrow::Cow;
use std::ops::Range;

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
        match *self {
            Sequences::Batch => Ok((0..batch).map(|b| b * tokens..(b + 1) * tokens).collect()),
            Sequences::Packed(bounds) => {
                let rises = bounds.windows(2).all(|w| w[0] <= w[1]);
                if batch != 1 || !rises || bounds.first() != Some(&0) || bounds.last() != Some(&tokens) {
                    return Err(Error::Boundaries { op, tokens, batch, found: bounds.to_vec() });
                }
                Ok(bounds.windows(2).map(|w| w[0]..w[1]).collect())
            }
        }
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
            _ => tokens(op, input, x).map(Self::Each),
        }
    }

    /// Token `t`.
    #[inline(always)]
    pub(crate) fn get(&self, t: usize) -> &'a [f32] {
        match self {
            Self::Even(all, width) => &all[t * width..(t + 1) * width],
            Self::Each(rows) => rows[t],
        }
    }
}

/// The numbers of a view in row-major order; copied only if they do not lie so.
pub(crate) fn contiguous<'v, F: Copy, D: Dimension>(x: &'v ArrayView<'_, F, D>) -> Cow<'v, [F]> {
    x.as_slice().map_or_else(|| x.iter().copied().collect(), Cow::Borrowed)
}
