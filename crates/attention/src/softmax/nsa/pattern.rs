//! The pattern over means: those of blocks that have ended.

use std::ops::Range;

use super::OP;
use crate::softmax::mask::{Entry, Pattern, Sizes, band, span};

/// Query `i` attends to mean `c` if `(c + 1) b ≤ i + 1`.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) block: usize,
}

impl Ended {
    fn ended(&self, i: usize, keys: usize) -> usize {
        ((i + 1) / self.block).min(keys)
    }
}

impl Pattern for Ended {
    fn name(&self) -> &'static str {
        OP
    }

    fn count(&self, _: &Sizes, _: usize, _: usize, i: usize, j: usize) -> u32 {
        ((i + 1) / self.block > j).into()
    }

    fn visit(&self, of: &Sizes, _: usize, _: usize, queries: Range<usize>, _: Range<usize>, row: &mut Vec<Entry>) {
        let some = 0..self.ended(queries.end - 1, of.keys);
        band(row, Pattern::block(self).1, of.keys, some, 0..self.ended(queries.start, of.keys));
    }

    fn seen(&self, of: &Sizes, _: usize, _: usize, i: usize, keys: Range<usize>) -> u64 {
        span(0..self.ended(i, of.keys), keys)
    }
}
