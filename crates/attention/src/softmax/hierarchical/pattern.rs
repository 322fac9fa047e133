//! The tree, with its levels concatenated as keys.

use std::ops::Range;

use super::{Hierarchical, OP};
use crate::softmax::mask::{Entry, Pattern, Sizes, band, span};

/// The position of each level's nodes among the keys, from the tokens up.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    of: Hierarchical,
    tokens: usize,
    /// The first node of each level, a multiple of the block size; and the total number of nodes.
    first: Vec<usize>,
}

impl Tree {
    pub(super) fn new(tokens: usize, of: Hierarchical) -> Self {
        let mut first = vec![0];
        let mut size = 1;
        loop {
            let nodes = tokens.div_ceil(size).next_multiple_of(of.block);
            first.push(first[first.len() - 1] + nodes);
            size *= 2;
            // The highest level is that of the two halves.
            if of.block * size >= tokens {
                return Self { of, tokens, first };
            }
        }
    }

    pub(super) fn nodes(&self) -> usize {
        self.first[self.first.len() - 1]
    }

    /// Where the tokens end, including padding.
    pub(super) fn first_mean(&self) -> usize {
        self.first[1]
    }

    /// The means, from the lowest level up, each with its two children, if it has both.
    pub(super) fn parents(&self) -> impl Iterator<Item = (usize, [Option<usize>; 2])> {
        self.first.windows(3).flat_map(|first| {
            let (below, here, end) = (first[0], first[1], first[2]);
            (here..end).map(move |node| {
                let child = below + 2 * (node - here);
                (node, [child, child + 1].map(|child| (child < here).then_some(child)))
            })
        })
    }

    /// What query `i` attends to, in ascending order: its own block, and a block of nodes at every level.
    fn ranges(&self, i: usize) -> Vec<Range<usize>> {
        let b = self.of.block;
        let own = i / b * b;
        let own = own..if self.of.causal { i + 1 } else { own + b };
        let mut ranges = Vec::with_capacity(self.first.len());
        for level in 0..self.first.len() - 1 {
            let size = b << level;
            let beside = (i / size) ^ 1;
            if size < self.tokens && beside * size < self.tokens && (!self.of.causal || beside < i / size) {
                ranges.push(self.first[level] + beside * b..self.first[level] + (beside + 1) * b);
            }
        }
        let at = ranges.partition_point(|range: &Range<usize>| range.start < own.start);
        ranges.insert(at, own);
        ranges
    }
}

impl Pattern for Tree {
    fn name(&self) -> &'static str {
        OP
    }

    fn block(&self) -> (usize, usize) {
        (self.of.block, (1usize << self.of.block.trailing_zeros()).min(64))
    }

    fn count(&self, _: &Sizes, _: usize, _: usize, i: usize, j: usize) -> u32 {
        self.ranges(i).iter().any(|range| range.contains(&j)).into()
    }

    fn visit(&self, of: &Sizes, _: usize, _: usize, queries: Range<usize>, _: Range<usize>, row: &mut Vec<Entry>) {
        // All queries are in one block: they differ only in how much of it they attend to.
        let last = self.ranges(queries.end - 1);
        for (all, some) in self.ranges(queries.start).into_iter().zip(last) {
            band(row, self.block().1, of.keys, some, all);
        }
    }

    fn seen(&self, _: &Sizes, _: usize, _: usize, i: usize, keys: Range<usize>) -> u64 {
        self.ranges(i).into_iter().fold(0, |bits, range| bits | span(range, keys.clone()))
    }
}
