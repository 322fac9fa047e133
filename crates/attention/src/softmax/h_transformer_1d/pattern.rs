//! The pattern of one level, in cells.

use std::ops::Range;

use super::OP;
use crate::softmax::mask::{Entry, Pattern, Sizes, band, join, span};

/// A level of the hierarchy: adjacent blocks, without pairs that belong to the level below.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    pub(super) block: usize,
    /// Whether cells are tokens, in which case a block attends to itself too.
    pub(super) finest: bool,
    pub(super) causal: bool,
}

impl Level {
    /// The cells to the left and to the right that cell `i` of `n` attends to; its own is in the former, if included.
    /// All bounds increase with `i`.
    fn sides(&self, i: usize, n: usize) -> [Range<usize>; 2] {
        let (block, own) = (self.block, i / self.block);
        let clip = |range: Range<usize>| range.start.min(n)..range.end.min(n);
        if self.finest {
            let end = if self.causal { i + 1 } else { (own + 2).saturating_mul(block) };
            return [clip(own.saturating_sub(1) * block..end), n..n];
        }
        // Adjacent half blocks were adjacent blocks of the level below.
        let half = block / 2;
        let late = usize::from(i % block >= half);
        let before = if own == 0 { 0..0 } else { (own - 1) * block..(own - 1) * block + (1 + late) * half };
        let next = (own + 1).saturating_mul(block);
        let behind = next.saturating_add(late * half)..next.saturating_add(block);
        [clip(before), if self.causal { n..n } else { clip(behind) }]
    }
}

impl Pattern for Level {
    fn name(&self) -> &'static str {
        OP
    }

    fn block(&self) -> (usize, usize) {
        (64, (1usize << self.block.trailing_zeros()).clamp(16, 64))
    }

    fn count(&self, of: &Sizes, _: usize, _: usize, i: usize, j: usize) -> u32 {
        self.sides(i, of.keys).iter().any(|side| side.contains(&j)).into()
    }

    fn visit(&self, of: &Sizes, _: usize, _: usize, queries: Range<usize>, _: Range<usize>, row: &mut Vec<Entry>) {
        let (at, block) = (row.len(), self.block().1);
        let (first, last) = (self.sides(queries.start, of.keys), self.sides(queries.end - 1, of.keys));
        for (first, last) in first.into_iter().zip(last) {
            band(row, block, of.keys, first.start..last.end, last.start..first.end);
        }
        join(row, at);
    }

    fn seen(&self, of: &Sizes, _: usize, _: usize, i: usize, keys: Range<usize>) -> u64 {
        self.sides(i, of.keys).into_iter().fold(0, |bits, side| bits | span(side, keys.clone()))
    }
}
