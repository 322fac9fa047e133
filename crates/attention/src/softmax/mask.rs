//! Which keys a query sees: blocks of keys for each block of queries, and a predicate inside the few that are cut.

use std::ops::Range;

use crate::Error;

/// A block of keys that a block of queries visits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// Which block of keys.
    pub keys: u32,
    /// Whether some pair inside is hidden: only then the predicate is asked.
    pub cut: bool,
    /// The natural logarithm of how many times each key counts; 0 for once.
    pub log_weight: f32,
}

impl Entry {
    /// A block of which every pair is seen.
    pub fn full(keys: usize) -> Self {
        Self { keys: keys as u32, cut: false, log_weight: 0.0 }
    }

    /// A block inside which the predicate decides.
    pub fn cut(keys: usize) -> Self {
        Self { keys: keys as u32, cut: true, log_weight: 0.0 }
    }
}

/// The blocks visited, as compressed rows; one plane for all sequences and heads, or one for each.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockMask {
    block: (usize, usize),
    tokens: (usize, usize),
    planes: (usize, usize),
    start: Vec<usize>,
    entries: Vec<Entry>,
}

impl BlockMask {
    /// The blocks that `row` lists: it is called for every sequence of `planes.0`, head of `planes.1` and block of queries, in
    /// order, and pushes that block's entries with rising `keys`. `tokens` are the numbers of queries and keys, `block` the tokens of
    /// a block of each; the keys of a block are a power of two from 16 to 256. Panics on another size, or entries that do not rise.
    pub fn new(
        tokens: (usize, usize),
        block: (usize, usize),
        planes: (usize, usize),
        mut row: impl FnMut(usize, usize, usize, &mut Vec<Entry>),
    ) -> Self {
        assert!(
            block.0 > 0 && block.1.is_power_of_two() && (16..=256).contains(&block.1),
            "blocks of {block:?} tokens"
        );
        let rows = tokens.0.div_ceil(block.0);
        let mut start = Vec::with_capacity(planes.0 * planes.1 * rows + 1);
        let mut entries = Vec::new();
        start.push(0);
        for b in 0..planes.0 {
            for h in 0..planes.1 {
                for i in 0..rows {
                    let first = entries.len();
                    row(b, h, i, &mut entries);
                    let new = &entries[first..];
                    assert!(new.windows(2).all(|w| w[0].keys < w[1].keys), "the key blocks of a row rise");
                    assert!(
                        new.last().is_none_or(|e| (e.keys as usize) * block.1 < tokens.1),
                        "a block beyond the keys"
                    );
                    start.push(entries.len());
                }
            }
        }
        Self { block, tokens, planes, start, entries }
    }

    /// Tokens of a block of queries and of a block of keys.
    pub fn block(&self) -> (usize, usize) {
        self.block
    }

    /// How many queries and keys there are.
    pub fn tokens(&self) -> (usize, usize) {
        self.tokens
    }

    /// What a block of queries visits.
    pub fn row(&self, b: usize, h: usize, i: usize) -> &[Entry] {
        let plane = (b % self.planes.0) * self.planes.1 + h % self.planes.1;
        let at = plane * self.tokens.0.div_ceil(self.block.0) + i;
        &self.entries[self.start[at]..self.start[at + 1]]
    }

    /// Pairs of blocks visited, in all planes.
    pub fn visited(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn check(
        &self,
        op: &'static str,
        batch: usize,
        heads: usize,
        tokens: (usize, usize),
    ) -> Result<(), Error> {
        let fits = |n: usize, of: usize| n == 1 || n == of;
        let (want, found) =
            ([batch, heads, tokens.0, tokens.1], [self.planes.0, self.planes.1, self.tokens.0, self.tokens.1]);
        if self.tokens == tokens && fits(self.planes.0, batch) && fits(self.planes.1, heads) {
            return Ok(());
        }
        Err(Error::Shape { op, input: "mask", want: want.to_vec(), found: found.to_vec() })
    }
}

/// What a query sees of some keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// These and no others.
    Span(Range<usize>),
    /// Ask for each.
    Each,
}

/// Which pairs inside a cut block are seen. Indices are those of the arrays.
pub trait Cut: Sync {
    /// Whether query `i` sees key `j`.
    fn sees(&self, b: usize, h: usize, i: usize, j: usize) -> bool;

    /// What query `i` sees of `keys`: a span where that is known, which is cheaper than asking for each.
    fn row(&self, b: usize, h: usize, i: usize, keys: Range<usize>) -> Seen {
        let _ = (b, h, i, keys);
        Seen::Each
    }
}

/// Every pair is seen.
#[derive(Clone, Copy, Debug)]
pub struct All;

impl Cut for All {
    fn sees(&self, _: usize, _: usize, _: usize, _: usize) -> bool {
        true
    }

    fn row(&self, _: usize, _: usize, _: usize, keys: Range<usize>) -> Seen {
        Seen::Span(keys)
    }
}
