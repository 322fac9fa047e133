//! All blocks, or those up to the diagonal: an unbounded band.

use std::ops::Range;

use super::Dense;
use crate::softmax::band::Band;
use crate::softmax::mask::{Entry, Pattern, Sizes};

impl Dense {
    fn band(&self) -> Band {
        Band { name: "dense", nearest: if self.causal { 0 } else { isize::MIN }, farthest: isize::MAX }
    }
}

impl Pattern for Dense {
    fn name(&self) -> &'static str {
        "dense"
    }

    fn count(&self, _: &Sizes, _: usize, _: usize, i: usize, j: usize) -> u32 {
        self.sees(i, j).into()
    }

    fn visit(&self, of: &Sizes, b: usize, h: usize, queries: Range<usize>, keys: Range<usize>, row: &mut Vec<Entry>) {
        self.band().visit(of, b, h, queries, keys, row);
    }

    fn seen(&self, of: &Sizes, b: usize, h: usize, i: usize, keys: Range<usize>) -> u64 {
        self.band().seen(of, b, h, i, keys)
    }
}
