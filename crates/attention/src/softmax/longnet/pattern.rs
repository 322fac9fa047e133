//! Segments of kept tokens, one behind the other.

use std::ops::Range;

use super::OP;
use crate::softmax::mask::{Bits, Entry, Pattern, Sizes, band, span};

/// Places in segments of `size`: a query sees those of its own segment that are there, or those of them up to its own.
pub(super) struct Segments {
    pub(super) size: usize,
    pub(super) causal: bool,
    pub(super) heads: usize,
    /// Which places of each sequence and head hold a token.
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
