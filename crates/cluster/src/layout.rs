//! Which tokens of a text each rank holds.

use std::ops::Range;

use ndarray::{ArrayD, ArrayViewD, Axis};

use crate::Error;

/// Bounds of parts are multiples of this many tokens where parts are long, so that tiles of kernels are those of one rank.
const ALIGNED: usize = 64;

/// How a text is spread over ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// Rank `r` holds the `r`th of `N` parts.
    #[default]
    Contiguous,
    /// Rank `r` holds the parts `r` and `2N − 1 − r` of `2N`, so that causal attention costs every rank the same. Brandon et al.
    /// 2023 (Striped Attention) balance it by tokens in turn; pieces keep the tiles of the kernel whole.
    Zigzag,
}

/// The pieces of a text that each rank holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pieces: Vec<Vec<Range<usize>>>,
    tokens: usize,
}

impl Layout {
    /// `tokens` over `ranks` ranks, in parts that are as equal as their bounds allow: those of parts of 512 tokens and more are
    /// multiples of 64.
    pub fn new(spread: Spread, tokens: usize, ranks: usize) -> Self {
        let ranks = ranks.max(1);
        let parts = match spread {
            Spread::Contiguous => ranks,
            Spread::Zigzag => 2 * ranks,
        };
        let unit = if tokens / parts >= 8 * ALIGNED { ALIGNED } else { 1 };
        let bound = |i: usize| match i == parts {
            true => tokens,
            // In 128 bits, as the product may exceed the address space.
            false => (tokens as u128 * i as u128 / parts as u128) as usize / unit * unit,
        };
        let part = |i: usize| bound(i)..bound(i + 1);
        let of_rank = |r: usize| match spread {
            Spread::Contiguous => vec![part(r)],
            Spread::Zigzag => vec![part(r), part(2 * ranks - 1 - r)],
        };
        Self { pieces: (0..ranks).map(of_rank).collect(), tokens }
    }

    /// Contiguous parts that end at these tokens, of which the last is the length of the text: a rank for each. An error unless
    /// they rise.
    pub fn ending(at: &[usize]) -> Result<Self, Error> {
        if !at.is_sorted() || at.is_empty() {
            let error = longreach_attention::Error::Parameter {
                op: "layout",
                parameter: "at",
                want: "at least one number, none smaller than the one before".into(),
                found: format!("{at:?}"),
            };
            return Err(error.into());
        }
        let starts = std::iter::once(0).chain(at.iter().copied());
        let pieces = starts.zip(at).map(|(from, to)| std::iter::once(from..*to).collect()).collect();
        Ok(Self { pieces, tokens: at[at.len() - 1] })
    }

    /// The pieces of a rank, in order, as ranges of the text's tokens.
    pub fn pieces(&self, rank: usize) -> &[Range<usize>] {
        self.pieces.get(rank).map_or(&[], Vec::as_slice)
    }

    /// The pieces of a rank, each with its place among the rank's own tokens.
    pub(crate) fn placed(&self, rank: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + '_ {
        let mut at = 0;
        self.pieces(rank).iter().map(move |piece| {
            let own = at..at + piece.len();
            at = own.end;
            (piece.clone(), own)
        })
    }

    /// The number of tokens of a rank.
    pub fn own(&self, rank: usize) -> usize {
        self.pieces(rank).iter().map(Range::len).sum()
    }

    /// The number of ranks.
    pub fn ranks(&self) -> usize {
        self.pieces.len()
    }

    /// The number of tokens of the text.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Whether every rank holds one piece, in the order of ranks.
    pub fn is_contiguous(&self) -> bool {
        self.pieces.iter().all(|pieces| pieces.len() == 1)
            && self.pieces.windows(2).all(|pair| pair[0][0].end == pair[1][0].start)
    }

    /// The tokens of a rank out of a tensor of the whole text, whose axis `axis` counts tokens. Panics if that is shorter than the
    /// text.
    pub fn split<T: Clone>(&self, x: ArrayViewD<'_, T>, axis: usize, rank: usize) -> ArrayD<T> {
        let pieces: Vec<_> =
            self.pieces(rank).iter().map(|piece| x.slice_axis(Axis(axis), piece.clone().into())).collect();
        ndarray::concatenate(Axis(axis), &pieces).expect("pieces of one tensor differ along the axis of tokens only")
    }

    /// The whole text out of the parts of all ranks, in their order. An error if a part has another shape than its rank's.
    pub fn join<T: Clone + Default>(&self, parts: &[ArrayD<T>], axis: usize) -> Result<ArrayD<T>, Error> {
        let mut shape = parts.first().map_or_else(Vec::new, |part| part.shape().to_vec());
        for (rank, part) in (0..self.ranks()).map(|rank| (rank, parts.get(rank))) {
            let mut want = shape.clone();
            if let Some(n) = want.get_mut(axis) {
                *n = self.own(rank);
            }
            let found = part.map_or_else(Vec::new, |part| part.shape().to_vec());
            if found != want || axis >= want.len() {
                return Err(longreach_attention::Error::Shape { op: "join", input: "part", want, found }.into());
            }
        }
        shape[axis] = self.tokens;
        let mut whole = ArrayD::from_elem(shape, T::default());
        for (rank, part) in parts.iter().enumerate() {
            for (piece, own) in self.placed(rank) {
                whole.slice_axis_mut(Axis(axis), piece.into()).assign(&part.slice_axis(Axis(axis), own.into()));
            }
        }
        Ok(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_on_one_rank() {
        for spread in [Spread::Contiguous, Spread::Zigzag] {
            for ranks in 1..6 {
                for tokens in [0, 1, 5, 63, 640, 5000, 8192, 100_001] {
                    let layout = Layout::new(spread, tokens, ranks);
                    let mut all: Vec<_> = (0..ranks).flat_map(|rank| layout.pieces(rank).to_vec()).collect();
                    all.sort_by_key(|piece| (piece.start, piece.end));
                    let mut at = 0;
                    for piece in all {
                        assert_eq!(piece.start, at, "{layout:?}");
                        at = piece.end;
                    }
                    assert_eq!(at, tokens);
                    let most = (0..ranks).map(|rank| layout.own(rank)).max().unwrap_or(0);
                    let pieces = layout.pieces(0).len();
                    // Each piece is rounded by less than 64 tokens if it has at least 512, otherwise by one.
                    let rounded = if tokens / (pieces * ranks) >= 512 { 64 } else { 1 };
                    assert!(most <= tokens / ranks + pieces * rounded, "{layout:?}");
                }
            }
        }
    }

    #[test]
    fn splitting_and_joining_is_the_identity() {
        let x = ArrayD::from_shape_fn(vec![2, 37, 3], |i| i[0] * 1000 + i[1] * 10 + i[2]);
        for spread in [Spread::Contiguous, Spread::Zigzag] {
            let layout = Layout::new(spread, 37, 3);
            let parts: Vec<_> = (0..3).map(|rank| layout.split(x.view(), 1, rank)).collect();
            assert_eq!(layout.join(&parts, 1).expect("the parts of the layout"), x);
            assert!(layout.join(&parts[..2], 1).is_err());
        }
    }
}
