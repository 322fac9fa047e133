//! Block masks: a [`Pattern`] defines which keys a query attends to, a [`BlockMask`] is what the kernel follows.
//!
//! A mask lists, for each query block, the key blocks that it visits. Inside a visited block the pattern is evaluated
//! again, 64 keys at a time, only if the block is partial.

use std::ops::Range;

use super::limits::Limits;
use crate::{Error, error};

/// A key block visited by a query block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// The index of the key block.
    pub keys: u32,
    /// Whether some pair inside is masked; only then the pattern is evaluated for its tokens.
    pub cut: bool,
    /// The logarithm of how often each key counts; 0 for once.
    pub log_weight: f32,
}

impl Entry {
    /// A block without masked pairs.
    pub fn full(keys: usize) -> Self {
        Self { keys: keys as u32, cut: false, log_weight: 0.0 }
    }

    /// A block inside which the pattern decides.
    pub fn cut(keys: usize) -> Self {
        Self { keys: keys as u32, cut: true, log_weight: 0.0 }
    }
}

/// The sizes of a call, given to patterns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Sequences in the batch.
    pub batch: usize,
    /// Heads of the queries.
    pub heads: usize,
    /// The positions of the queries among the keys.
    pub queries: Range<usize>,
    /// The number of keys.
    pub keys: usize,
}

impl Sizes {
    /// An error if a query is positioned after the last key, because key blocks are counted up to its own.
    pub(super) fn within(&self, op: &'static str) -> Result<(), Error> {
        let (fits, last) = (self.queries.end <= self.keys, self.keys.saturating_sub(self.queries.len()));
        let want = format!("at most {last}: {} queries that stand among the {} keys", self.queries.len(), self.keys);
        error::parameter(op, "offset", fits, self.queries.start, want)
    }
}

/// How a pattern treats packed sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// It depends on distances, or on masks over the row: the kernel masks the keys of other sequences.
    Row,
    /// Positions are counted from a sequence's start: sequences are processed one by one.
    Sequence,
    /// It was built for a single sequence: packed sequences are an error.
    Refused,
}

/// Defines which keys each query attends to. Queries and keys are identified by their positions.
pub trait Pattern: std::fmt::Debug + Send + Sync {
    /// The mechanism's name, for errors.
    fn name(&self) -> &'static str;

    /// An error if the pattern does not support these sizes.
    fn check(&self, of: &Sizes) -> Result<(), Error> {
        let _ = of;
        Ok(())
    }

    /// Tokens per query block and per key block; the latter a power of two from 16 to 256.
    fn block(&self) -> (usize, usize) {
        (64, 64)
    }

    /// Whether the pattern differs between sequences, and between heads.
    fn differs(&self) -> (bool, bool) {
        (false, false)
    }

    /// How it treats packed sequences.
    fn packing(&self) -> Packing {
        Packing::Row
    }

    /// The definition: how often query `i` of head `h` counts key `j`; 0 if masked.
    fn count(&self, of: &Sizes, b: usize, h: usize, i: usize, j: usize) -> u32;

    /// Pushes the key blocks that `queries`, all or part of a query block, visit: each once, ascending. Blocks outside
    /// `keys` may be omitted.
    fn visit(&self, of: &Sizes, b: usize, h: usize, queries: Range<usize>, keys: Range<usize>, row: &mut Vec<Entry>);

    /// Which of `keys` query `i` attends to, as a bit mask: bit `n` for the `n`th. `keys` are up to 64, and start at a
    /// multiple of 64. The result is only used for keys in blocks that were pushed as cut.
    fn seen(&self, of: &Sizes, b: usize, h: usize, i: usize, keys: Range<usize>) -> u64 {
        keys.enumerate().fold(0, |bits, (n, j)| bits | (u64::from(self.count(of, b, h, i, j) > 0) << n))
    }

    /// Whether the pattern is so sparse inside the visited blocks that pairs should be processed individually, as
    /// listed by [`Pattern::list`]. Then no key may count more than once.
    fn scattered(&self) -> bool {
        false
    }

    /// Pushes the keys that query `i` attends to, ascending.
    fn list(&self, of: &Sizes, b: usize, h: usize, i: usize, keys: &mut Vec<u32>) {
        keys.extend((0..of.keys).filter(|j| self.count(of, b, h, i, *j) > 0).map(|j| j as u32));
    }
}

/// The bit mask of `seen` within `keys`.
#[inline]
pub fn span(seen: Range<usize>, keys: Range<usize>) -> u64 {
    let to = seen.end.clamp(keys.start, keys.end) - keys.start;
    let from = (seen.start.clamp(keys.start, keys.end) - keys.start).min(to);
    below(to) & !below(from)
}

/// A mask of the lowest `n` bits, up to 64.
#[inline]
pub(super) fn below(n: usize) -> u64 {
    if n >= 64 { u64::MAX } else { (1 << n) - 1 }
}

/// Pushes the blocks of `block` keys that overlap `some`; those inside `all` are full. `some` ends at the last key or
/// before.
pub fn band(row: &mut Vec<Entry>, block: usize, keys: usize, some: Range<usize>, all: Range<usize>) {
    if some.is_empty() {
        return;
    }
    for at in some.start / block..some.end.div_ceil(block) {
        let whole = all.start <= at * block && ((at + 1) * block).min(keys) <= all.end;
        row.push(if whole { Entry::full(at) } else { Entry::cut(at) });
    }
}

/// Sorts the entries from `first` on and merges those of the same block, which is full if any of them was.
pub fn join(row: &mut Vec<Entry>, first: usize) {
    row[first..].sort_by_key(|entry| entry.keys);
    let mut end = first;
    for at in first..row.len() {
        if end > first && row[end - 1].keys == row[at].keys {
            row[end - 1].cut &= row[at].cut;
        } else {
            row[end] = row[at];
            end += 1;
        }
    }
    row.truncate(end);
}

/// A bit set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// Packs booleans.
    pub fn of(flags: impl IntoIterator<Item = bool>) -> Self {
        let mut words = Vec::new();
        for (i, flag) in flags.into_iter().enumerate() {
            if i % 64 == 0 {
                words.push(0);
            }
            words[i / 64] |= u64::from(flag) << (i % 64);
        }
        // One extra word, so that a read may straddle the last.
        words.push(0);
        Self { words }
    }

    /// Sets a bit.
    pub fn set(&mut self, at: usize) {
        self.words[at / 64] |= 1 << (at % 64);
    }

    /// The bits of `keys`, up to 64.
    #[inline]
    pub fn get(&self, keys: Range<usize>) -> u64 {
        let (word, shift) = (keys.start / 64, keys.start % 64);
        let both = self.words[word] as u128 | (self.words[word + 1] as u128) << 64;
        (both >> shift) as u64 & below(keys.len())
    }

    /// The number of set bits in `keys`.
    pub fn count(&self, keys: Range<usize>) -> usize {
        let parts = keys.clone().step_by(64).map(|at| self.get(at..(at + 64).min(keys.end)).count_ones() as usize);
        parts.sum()
    }
}

/// The visited blocks in compressed rows; one plane for all sequences and heads, or one for each.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockMask {
    block: (usize, usize),
    queries: Range<usize>,
    planes: (usize, usize),
    start: Vec<usize>,
    entries: Vec<Entry>,
}

impl BlockMask {
    /// The mask of a pattern over these sizes. An error if the pattern does not support them.
    pub fn of(pattern: &(impl Pattern + ?Sized), of: &Sizes) -> Result<Self, Error> {
        pattern.check(of)?;
        Ok(Self::limited(pattern, of, &Limits::default()))
    }

    /// A mask without queries.
    pub(crate) fn empty() -> Self {
        Self { block: (64, 64), queries: 0..0, planes: (1, 1), start: vec![0], entries: Vec::new() }
    }

    pub(crate) fn limited(pattern: &(impl Pattern + ?Sized), of: &Sizes, limits: &Limits) -> Self {
        let block = pattern.block();
        debug_assert!(block.0 > 0 && block.1.is_power_of_two() && (16..=256).contains(&block.1), "{block:?}");
        let differs = pattern.differs();
        let planes = (
            if differs.0 || limits.differ() { of.batch } else { of.batch.min(1) },
            if differs.1 { of.heads } else { of.heads.min(1) },
        );
        let mut mask = Self { block, queries: of.queries.clone(), planes, start: vec![0], entries: Vec::new() };
        for b in 0..planes.0 {
            for h in 0..planes.1 {
                for i in mask.rows() {
                    let queries = mask.positions(i);
                    let first = mask.entries.len();
                    let keys = limits.keys(of, &queries);
                    pattern.visit(of, b, h, queries.clone(), keys, &mut mask.entries);
                    debug_assert!(mask.entries[first..].is_sorted_by(|a, b| a.keys < b.keys), "blocks of a row rise");
                    limits.apply(of, b, &queries, block.1, &mut mask.entries, first);
                    mask.start.push(mask.entries.len());
                }
            }
        }
        mask
    }

    /// Tokens per query block and per key block.
    pub fn block(&self) -> (usize, usize) {
        self.block
    }

    /// The range of query blocks; the first and the last may be partial.
    pub fn rows(&self) -> Range<usize> {
        if self.queries.is_empty() {
            return 0..0;
        }
        self.queries.start / self.block.0..self.queries.end.div_ceil(self.block.0)
    }

    /// The positions of a query block.
    pub fn positions(&self, i: usize) -> Range<usize> {
        (i * self.block.0).max(self.queries.start)..((i + 1) * self.block.0).min(self.queries.end)
    }

    /// The key blocks that a query block visits.
    pub fn row(&self, b: usize, h: usize, i: usize) -> &[Entry] {
        let plane = (b % self.planes.0) * self.planes.1 + h % self.planes.1;
        let rows = self.rows();
        let at = plane * rows.len() + i - rows.start;
        &self.entries[self.start[at]..self.start[at + 1]]
    }

    /// The number of visited block pairs in all planes.
    pub fn visited(&self) -> usize {
        self.entries.len()
    }

    /// The numbers of planes along sequences and heads.
    pub fn planes(&self) -> (usize, usize) {
        self.planes
    }

    /// The transpose of a plane: for each `range` keys, the query blocks that visit some of them, ascending, counted
    /// from the first.
    pub(crate) fn columns(&self, b: usize, h: usize, keys: usize, range: usize) -> Columns {
        let per = range / self.block.1;
        let visits = |i: usize| {
            let row = self.row(b, h, i);
            row.chunk_by(move |a, b| a.keys as usize / per == b.keys as usize / per)
                .map(move |c| c[0].keys as usize / per)
        };
        let mut start = vec![0; keys.div_ceil(range) + 1];
        for i in self.rows() {
            visits(i).for_each(|at| start[at + 1] += 1);
        }
        for at in 1..start.len() {
            start[at] += start[at - 1];
        }
        let mut rows = vec![0; start[start.len() - 1]];
        let mut next = start.clone();
        for i in self.rows() {
            for at in visits(i) {
                rows[next[at]] = (i - self.rows().start) as u32;
                next[at] += 1;
            }
        }
        Columns { start, rows }
    }
}

/// The transpose of a plane of a mask.
pub(crate) struct Columns {
    start: Vec<usize>,
    rows: Vec<u32>,
}

impl Columns {
    pub(crate) fn of(&self, range: usize) -> &[u32] {
        &self.rows[self.start[range]..self.start[range + 1]]
    }
}
