//! Blocks up to the diagonal.

use std::ops::Range;

use super::Dense;
use crate::softmax::mask::{Entry, Pattern, Sizes, band, span};

impl Dense {
    /// How many keys query `i` sees.
    fn keys(&self, of: &Sizes, i: usize) -> usize {
        if self.causal { (i + 1).min(of.keys) } else { of.keys }
    }
}

impl Pattern for Dense {
    fn name(&self) -> &'static str {
        "dense"
    }

    fn count(&self, _: &Sizes, _: usize, _: usize, i: usize, j: usize) -> u32 {
        self.sees(i, j).into()
    }

    fn visit(&self, of: &Sizes, _: usize, _: usize, queries: Range<usize>, keys: Range<usize>, row: &mut Vec<Entry>) {
        let some = keys.start..self.keys(of, queries.end - 1).min(keys.end);
        band(row, self.block().1, of.keys, some, 0..self.keys(of, queries.start));
    }

    fn seen(&self, of: &Sizes, _: usize, _: usize, i: usize, keys: Range<usize>) -> u64 {
        span(0..self.keys(of, i), keys)
    }
}
