//! Sparsified segments, concatenated.

use std::ops::Range;

use super::{LongNet, OP};
use crate::softmax::mask::{Bits, Entry, Packing, Pattern, Sizes, band, span};
use crate::{Error, error};

/// The union of all branches, for pictures: a key in two branches counts once here, and twice in
/// [`chunk`](super::chunk).
impl Pattern for LongNet {
    fn name(&self) -> &'static str {
        OP
    }

    fn check(&self, of: &Sizes) -> Result<(), Error> {
        let fits = !self.segments.is_empty() && self.segments.iter().all(|w| *w > 0);
        error::parameter(OP, "segments", fits, &self.segments, "some lengths of at least 1")?;
        let same = self.dilations.len() == self.segments.len() && self.dilations.iter().all(|r| *r > 0);
        error::parameter(OP, "dilations", same, &self.dilations, "one of at least 1 for each segment length")?;
        let square = of.queries == (0..of.keys);
        error::parameter(OP, "queries", square, &of.queries, format!("those of all {} keys", of.keys))
    }

    fn packing(&self) -> Packing {
        Packing::Sequence
    }

    fn differs(&self) -> (bool, bool) {
        (false, true)
    }

    fn count(&self, of: &Sizes, _: usize, h: usize, i: usize, j: usize) -> u32 {
        (self.meets(of.keys, (h, of.heads), i, j) > 0).into()
    }

    fn visit(&self, of: &Sizes, _: usize, _: usize, queries: Range<usize>, _: Range<usize>, row: &mut Vec<Entry>) {
        let least = self.segments.iter().map(|w| queries.start / w * w).min().unwrap_or(0);
        let most = self.segments.iter().map(|w| ((queries.end - 1) / w + 1) * w).max().unwrap_or(of.keys);
        let end = if self.causal { queries.end } else { most };
        band(row, Pattern::block(self).1, of.keys, least..end.min(of.keys), 0..0);
    }
}

/// Places in segments of `size`: a query attends to the places of its own segment that hold a token, in causal
/// attention to those up to its own.
#[derive(Debug)]
pub(super) struct Segments {
    pub(super) size: usize,
    pub(super) causal: bool,
    pub(super) heads: usize,
    /// The places of each sequence and head that hold a token.
    pub(super) there: Vec<Bits>,
}

impl Segments {
    fn keys(&self, i: usize) -> Range<usize> {
        let first = i / self.size * self.size;
        first..if self.causal { i + 1 } else { first + self.size }
    }

    fn there(&self, b: usize, h: usize) -> &Bits {
        &self.there[b * self.heads + h]
    }
}

impl Pattern for Segments {
    fn name(&self) -> &'static str {
        OP
    }

    fn differs(&self) -> (bool, bool) {
        (true, true)
    }

    fn count(&self, _: &Sizes, b: usize, h: usize, i: usize, j: usize) -> u32 {
        (self.keys(i).contains(&j) && self.there(b, h).get(j..j + 1) == 1).into()
    }

    fn visit(&self, of: &Sizes, b: usize, h: usize, queries: Range<usize>, _: Range<usize>, row: &mut Vec<Entry>) {
        let (at, block) = (row.len(), self.block().1);
        let (first, last) = (self.keys(queries.start), self.keys(queries.end - 1));
        band(row, block, of.keys, first.start..last.end.min(of.keys), last.start..first.end.min(of.keys));
        let keys = |entry: &Entry| entry.keys as usize * block..((entry.keys as usize + 1) * block).min(of.keys);
        for entry in &mut row[at..] {
            entry.cut |= self.there(b, h).count(keys(entry)) < keys(entry).len();
        }
    }

    fn seen(&self, _: &Sizes, b: usize, h: usize, i: usize, keys: Range<usize>) -> u64 {
        span(self.keys(i), keys.clone()) & self.there(b, h).get(keys)
    }
}
