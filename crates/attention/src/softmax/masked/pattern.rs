//! The blocks that contain an unmasked pair.

use std::ops::Range;

use super::Masked;
use crate::softmax::mask::{Entry, Pattern, Sizes};
use crate::{Error, error};

impl Pattern for Masked {
    fn name(&self) -> &'static str {
        "masked"
    }

    fn check(&self, of: &Sizes) -> Result<(), Error> {
        let one = |n: usize, of: usize| if n == 1 { 1 } else { of };
        let want = [one(self.planes.0, of.batch), one(self.planes.1, of.heads), of.queries.len(), of.keys];
        error::shape("masked", "mask", &want, &[self.planes.0, self.planes.1, self.queries, self.keys])
    }

    fn block(&self) -> (usize, usize) {
        (self.block, self.block)
    }

    fn differs(&self) -> (bool, bool) {
        (self.planes.0 > 1, self.planes.1 > 1)
    }

    fn count(&self, of: &Sizes, b: usize, h: usize, i: usize, j: usize) -> u32 {
        self.keeps(b, h, i - of.queries.start, j).into()
    }

    fn visit(&self, of: &Sizes, b: usize, h: usize, queries: Range<usize>, _: Range<usize>, row: &mut Vec<Entry>) {
        // The number of unmasked pairs per block.
        let mut kept: Vec<(u32, u32)> = Vec::new();
        let first = of.queries.start;
        for t in queries.start - first..queries.end - first {
            let of_row = self.row(b, h, t);
            let blocks = of_row.blocks.iter().map(|at| at * 16 / self.block as u32);
            kept.extend(blocks.zip(of_row.kept.iter().map(|kept| kept.count_ones())));
        }
        kept.sort_unstable_by_key(|(at, _)| *at);
        for block in kept.chunk_by(|a, b| a.0 == b.0) {
            let at = block[0].0 as usize;
            let pairs = queries.len() * ((at + 1) * self.block).min(of.keys).saturating_sub(at * self.block);
            let all = block.iter().map(|(_, kept)| *kept as usize).sum::<usize>() == pairs;
            row.push(if all { Entry::full(at) } else { Entry::cut(at) });
        }
    }

    fn seen(&self, of: &Sizes, b: usize, h: usize, i: usize, keys: Range<usize>) -> u64 {
        let row = self.row(b, h, i - of.queries.start);
        (0..4).fold(0, |bits, n| bits | u64::from(row.get(keys.start / 16 + n)) << (16 * n))
    }
    fn scattered(&self) -> bool {
        self.scattered
    }

    fn list(&self, of: &Sizes, b: usize, h: usize, i: usize, keys: &mut Vec<u32>) {
        let row = self.row(b, h, i - of.queries.start);
        for (block, kept) in row.blocks.iter().zip(&row.kept) {
            let mut kept = *kept;
            while kept != 0 {
                keys.push(16 * block + kept.trailing_zeros());
                kept &= kept - 1;
            }
        }
    }
}
