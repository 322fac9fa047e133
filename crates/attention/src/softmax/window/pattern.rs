//! A band of blocks along the diagonal.

use std::ops::Range;

use super::Window;
use crate::softmax::band::Band;
use crate::softmax::mask::{Entry, Pattern, Sizes};

impl Window {
    fn band(&self) -> Band {
        let [left, right] = [self.left, self.right].map(|n| n.min(isize::MAX as usize) as isize);
        Band { name: "window", nearest: -right, farthest: left }
    }
}

impl Pattern for Window {
    fn name(&self) -> &'static str {
        "window"
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
