//! Layouts of square blocks: which key blocks each query block visits, and how often.

use std::ops::Range;

use super::deepspeed::Hidden;
use super::mask::{Entry, Packing, Pattern, Sizes, band, join, span};
use crate::{Error, error};

/// A layout of square blocks, one for all heads or one per head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    op: &'static str,
    block: usize,
    blocks: usize,
    heads: usize,
    causal: bool,
    start: Vec<usize>,
    visits: Vec<Visit>,
    /// Query blocks that the kernel merges into one: small blocks do not fill its tiles.
    together: usize,
}

/// A visited block of keys, and how often its keys count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Visit {
    /// The index of the block.
    pub keys: u32,
    /// How often each key counts.
    pub count: u32,
}

impl Layout {
    /// The layout of `heads` heads (1 for a layout shared by all) and `blocks` blocks of `block` tokens. `row` is
    /// called for every head and query block, in order, and pushes key blocks in any order; a block pushed twice counts
    /// twice if `repeats`, else once. With `causal` keys after a query's own position are masked as well.
    ///
    /// `block` must be a multiple of 16 if blocks count differently.
    pub(super) fn new(
        op: &'static str,
        block: usize,
        blocks: usize,
        heads: usize,
        (causal, repeats): (bool, bool),
        mut row: impl FnMut(usize, usize, &mut Vec<usize>),
    ) -> Result<Self, Error> {
        error::parameter(op, "block", block > 0, block, "at least 1")?;
        let (mut start, mut visits, mut list) = (vec![0], Vec::<Visit>::new(), Vec::new());
        for h in 0..heads {
            for r in 0..blocks {
                list.clear();
                row(h, r, &mut list);
                list.sort_unstable();
                let first = visits.len();
                for keys in list.drain(..).filter(|c| *c < blocks) {
                    match visits[first..].last_mut() {
                        Some(last) if last.keys as usize == keys => last.count += u32::from(repeats),
                        _ => visits.push(Visit { keys: keys as u32, count: 1 }),
                    }
                }
                start.push(visits.len());
            }
        }
        let even = block.is_multiple_of(16) || visits.iter().all(|visit| visit.count == 1);
        error::parameter(op, "block", even, block, "a multiple of 16 where blocks count more than once")?;
        let mut layout = Self { op, block, blocks, heads, causal, start, visits, together: 1 };
        layout.together = layout.best_together();
        Ok(layout)
    }

    /// How many query blocks to merge: enough to fill a tile, if they visit similar blocks.
    fn best_together(&self) -> usize {
        const TILE: usize = 64;
        // The cost of a pair in a tile of 16 queries relative to a full tile.
        const SMALL_TILE_COST: usize = 2;
        let together = TILE / self.block;
        let even = self.block.is_multiple_of(16) && self.visits.iter().all(|visit| visit.count == 1);
        if together < 2 || !even {
            return 1;
        }
        let (mut alone, mut joint) = (0, 0);
        let mut union: Vec<Visit> = Vec::new();
        for h in 0..self.heads {
            for first in (0..self.blocks).step_by(together) {
                union.clear();
                for r in first..(first + together).min(self.blocks) {
                    union.extend(self.row(h, r));
                    alone += SMALL_TILE_COST * self.row(h, r).len();
                }
                union.sort_unstable();
                union.dedup();
                joint += together * union.len();
            }
        }
        if joint < alone { together } else { 1 }
    }

    /// The same blocks, with the given masking of the future.
    pub fn hiding(self, hidden: Hidden) -> Self {
        Self { causal: self.causal && hidden == Hidden::Tokens, ..self }
    }

    /// Block size in tokens.
    pub fn block(&self) -> usize {
        self.block
    }

    /// The number of query blocks, equal to that of key blocks.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// The number of heads with separate layouts; 1 if all share one.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// The key blocks that query block `r` of head `h` visits, ascending.
    pub fn row(&self, h: usize, r: usize) -> &[Visit] {
        let at = (h % self.heads) * self.blocks + r;
        &self.visits[self.start[at]..self.start[at + 1]]
    }

    /// Whether query block `r` of head `h` visits key block `c`.
    pub fn visits(&self, h: usize, r: usize, c: usize) -> bool {
        self.row(h, r).binary_search_by_key(&(c as u32), |visit| visit.keys).is_ok()
    }

    /// The fraction of block pairs that are visited.
    pub fn density(&self) -> f64 {
        self.visits.len() as f64 / (self.heads * self.blocks * self.blocks).max(1) as f64
    }

    /// Keys per block of the kernel.
    fn kernel_block(&self) -> usize {
        if self.block.is_multiple_of(16) { (1usize << self.block.trailing_zeros()).min(256) } else { 16 }
    }
}

impl Pattern for Layout {
    fn name(&self) -> &'static str {
        self.op
    }

    fn check(&self, of: &Sizes) -> Result<(), Error> {
        let tokens = self.block * self.blocks;
        let fits = of.keys <= tokens && of.queries.end <= tokens;
        error::parameter(
            self.op,
            "tokens",
            fits,
            of.keys.max(of.queries.end),
            format!("at most {tokens} of the layout"),
        )?;
        let heads = self.heads == 1 || self.heads == of.heads;
        error::parameter(self.op, "heads", heads, of.heads, format!("{} of the layout", self.heads))
    }

    fn packing(&self) -> Packing {
        Packing::Refused
    }

    fn block(&self) -> (usize, usize) {
        (self.block * self.together, self.kernel_block())
    }

    fn differs(&self) -> (bool, bool) {
        (false, self.heads > 1)
    }

    fn count(&self, _: &Sizes, _: usize, h: usize, i: usize, j: usize) -> u32 {
        let row = self.row(h, i / self.block);
        let found = row.binary_search_by_key(&((j / self.block) as u32), |visit| visit.keys);
        found.map_or(0, |at| if self.causal && j > i { 0 } else { row[at].count })
    }

    fn visit(&self, of: &Sizes, _: usize, h: usize, queries: Range<usize>, keys: Range<usize>, row: &mut Vec<Entry>) {
        let (first, block) = (row.len(), self.kernel_block());
        let (some, all) = if self.causal { (queries.end, queries.start + 1) } else { (of.keys, of.keys) };
        let rows = queries.start / self.block..queries.end.div_ceil(self.block);
        for r in rows.clone() {
            for visit in self.row(h, r) {
                let (start, end) = (visit.keys as usize * self.block, (visit.keys as usize + 1) * self.block);
                let at = row.len();
                let there = start.max(keys.start)..end.min(keys.end).min(some);
                band(row, block, of.keys, there, start..end.min(of.keys).min(all));
                row[at..].iter_mut().for_each(|entry| entry.log_weight = (visit.count as f32).ln());
            }
        }
        if rows.len() > 1 {
            // Blocks that all merged query blocks visit need no mask.
            row[first..].sort_by_key(|entry| entry.keys);
            let mut end = first;
            for at in first..row.len() {
                let same = row[at..].iter().take_while(|entry| entry.keys == row[at].keys).count();
                if end > first && row[end - 1].keys == row[at].keys {
                    continue;
                }
                row[end] = row[at];
                row[end].cut |= same < rows.len();
                end += 1;
            }
            row.truncate(end);
        }
        if !self.block.is_multiple_of(16) {
            join(row, first);
        }
    }

    fn seen(&self, of: &Sizes, b: usize, h: usize, i: usize, keys: Range<usize>) -> u64 {
        if self.block.is_multiple_of(16) {
            let past = if self.causal { span(0..i + 1, keys.clone()) } else { u64::MAX };
            if self.together == 1 {
                // The requested blocks are attended to as a whole.
                return past;
            }
            let row = self.row(h, i / self.block);
            let from = row.partition_point(|visit| (visit.keys as usize + 1) * self.block <= keys.start);
            let near = row[from..].iter().map(|visit| visit.keys as usize * self.block);
            let near = near.take_while(|start| *start < keys.end);
            return past & near.fold(0, |bits, start| bits | span(start..start + self.block, keys.clone()));
        }
        keys.enumerate().fold(0, |bits, (n, j)| bits | (u64::from(self.count(of, b, h, i, j) > 0) << n))
    }
}
