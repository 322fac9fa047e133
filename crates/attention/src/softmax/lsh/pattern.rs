//! Chunks of the sorted order.

use std::ops::Range;

use super::{Lsh, OP};
use crate::softmax::mask::{Entry, Pattern, Sizes, band, join};

/// The pattern over places in sorted order: a token attends to the chunks around its own, except itself, padding and,
/// if causal, the future.
#[derive(Debug)]
pub(super) struct Sorted {
    pub(super) lsh: Lsh,
    /// Tokens per round.
    pub(super) tokens: usize,
    pub(super) heads: usize,
    /// The token at each place, by sequence and head.
    pub(super) at: Vec<Vec<u32>>,
    pub(super) keep: Option<Vec<Vec<bool>>>,
}

impl Sorted {
    fn chunk(&self) -> usize {
        if self.tokens <= self.lsh.chunk { self.tokens.max(1) } else { self.lsh.chunk }
    }

    /// The chunks that chunk `c` of `n` attends to, ascending.
    fn chunks(&self, c: usize, n: usize) -> Vec<usize> {
        if self.tokens <= self.lsh.chunk {
            return vec![c];
        }
        let Lsh { before, after, .. } = self.lsh;
        let mut seen: Vec<usize> =
            (0..(before + after + 1).min(n)).map(|i| (c + n * before + i - before) % n).collect();
        seen.sort_unstable();
        seen
    }

    fn keeps(&self, b: usize, h: usize, place: usize) -> bool {
        let token = self.at[b * self.heads + h][place] as usize;
        self.keep.as_ref().is_none_or(|keep| keep[b][token])
    }

    fn sees(&self, b: usize, h: usize, i: usize, j: usize) -> bool {
        let at = &self.at[b * self.heads + h];
        at[i] != at[j] && (!self.lsh.causal || at[j] <= at[i]) && self.keeps(b, h, j)
    }
}

impl Pattern for Sorted {
    fn name(&self) -> &'static str {
        OP
    }

    fn block(&self) -> (usize, usize) {
        (self.chunk(), 16)
    }

    fn differs(&self) -> (bool, bool) {
        (true, true)
    }

    fn count(&self, of: &Sizes, b: usize, h: usize, i: usize, j: usize) -> u32 {
        let chunk = self.chunk();
        let near = self.chunks(i / chunk, of.keys / chunk).contains(&(j / chunk));
        (near && self.sees(b, h, i, j)).into()
    }

    fn visit(&self, of: &Sizes, _: usize, _: usize, queries: Range<usize>, _: Range<usize>, row: &mut Vec<Entry>) {
        let (first, chunk) = (row.len(), self.chunk());
        for c in self.chunks(queries.start / chunk, of.keys / chunk) {
            // Every token's block contains itself or another round's copy of it, so all blocks need the mask.
            band(row, 16, of.keys, c * chunk..((c + 1) * chunk).min(of.keys), 0..0);
        }
        join(row, first);
    }

    fn seen(&self, of: &Sizes, b: usize, h: usize, i: usize, keys: Range<usize>) -> u64 {
        let chunk = self.chunk();
        let near = self.chunks(i / chunk, of.keys / chunk);
        keys.enumerate()
            .fold(0, |bits, (n, j)| bits | u64::from(near.contains(&(j / chunk)) && self.sees(b, h, i, j)) << n)
    }
}
