//! A rectangle of a pattern: some consecutive queries against some consecutive keys of a text.

use std::ops::Range;

use longreach_attention::softmax::mask::{Entry, Packing, join};
use longreach_attention::softmax::{Pattern, Sizes};

use crate::Error;

/// The queries from `queries` on and the keys from `keys` on, of a pattern over the whole text. Kernels count both from 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    pub(crate) whole: &'a Whole<'a>,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
}

/// A pattern, and the sizes of the whole text.
#[derive(Clone, Debug)]
pub(crate) struct Whole<'a> {
    pub(crate) pattern: &'a dyn Pattern,
    pub(crate) of: Sizes,
    /// Whether some block counts more than once, which only blocks at their own places can.
    weighted: bool,
}

impl<'a> Whole<'a> {
    /// An error if the pattern does not support a text of this length.
    pub(crate) fn new(pattern: &'a dyn Pattern, batch: usize, heads: usize, tokens: usize) -> Result<Self, Error> {
        let of = Sizes { batch, heads, queries: 0..tokens, keys: tokens };
        pattern.check(&of)?;
        let mut whole = Self { pattern, of, weighted: false };
        whole.weighted = !pattern.scattered() && whole.visits(0..tokens, &mut |entry| entry.log_weight != 0.0);
        Ok(whole)
    }

    /// Whether `holds` is true for a block that some of these queries visit; it is asked until it is.
    fn visits(&self, queries: Range<usize>, holds: &mut dyn FnMut(&Entry) -> bool) -> bool {
        let differs = self.pattern.differs();
        let planes =
            [(differs.0, self.of.batch), (differs.1, self.of.heads)].map(|(d, n)| if d { n } else { n.min(1) });
        let (block, mut row) = (self.pattern.block().0, Vec::new());
        for (b, h) in (0..planes[0]).flat_map(|b| (0..planes[1]).map(move |h| (b, h))) {
            for queries in blocks(queries.clone(), block) {
                row.clear();
                self.pattern.visit(&self.of, b, h, queries, 0..self.of.keys, &mut row);
                if row.iter().any(&mut *holds) {
                    return true;
                }
            }
        }
        false
    }

    /// The keys that these queries may attend to, as ranges that rise and do not touch.
    pub(crate) fn needed(&self, queries: Range<usize>) -> Vec<Range<usize>> {
        let width = self.pattern.block().1;
        let mut seen = vec![false; self.of.keys.div_ceil(width)];
        if self.pattern.scattered() {
            self.listed(queries, width, &mut seen);
        } else {
            self.visits(queries, &mut |entry| {
                seen[entry.keys as usize] = true;
                false
            });
        }
        let mut needed: Vec<Range<usize>> = Vec::new();
        for (i, _) in seen.iter().enumerate().filter(|(_, seen)| **seen) {
            let keys = i * width..((i + 1) * width).min(self.of.keys);
            match needed.last_mut() {
                Some(last) if last.end == keys.start => last.end = keys.end,
                _ => needed.push(keys),
            }
        }
        needed
    }

    /// Marks the blocks of keys that a scattered pattern lists.
    fn listed(&self, queries: Range<usize>, width: usize, seen: &mut [bool]) {
        let differs = self.pattern.differs();
        let planes =
            [(differs.0, self.of.batch), (differs.1, self.of.heads)].map(|(d, n)| if d { n } else { n.min(1) });
        let mut keys = Vec::new();
        for (b, h) in (0..planes[0]).flat_map(|b| (0..planes[1]).map(move |h| (b, h))) {
            for i in queries.clone() {
                keys.clear();
                self.pattern.list(&self.of, b, h, i, &mut keys);
                keys.iter().for_each(|j| seen[*j as usize / width] = true);
            }
        }
    }

    /// The rectangle; an error if its blocks are at other places than the pattern's and count more than once.
    pub(crate) fn part(&self, queries: usize, keys: usize) -> Result<Part<'_>, Error> {
        let part = Part { whole: self, queries, keys };
        if self.weighted && !part.aligned() {
            let (name, width) = (self.pattern.name().to_owned(), self.pattern.block().1);
            let message = format!("its blocks count several times: cut the text at multiples of {width} tokens");
            return Err(Error::Unsupported { name, message });
        }
        Ok(part)
    }
}

/// The parts of a range that lie in one block each.
fn blocks(range: Range<usize>, block: usize) -> impl Iterator<Item = Range<usize>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let part = (at < range.end).then(|| at..((at / block + 1) * block).min(range.end))?;
        at = part.end;
        Some(part)
    })
}

impl Part<'_> {
    /// Whether blocks and tiles are at the places where the pattern has them.
    fn aligned(&self) -> bool {
        let (of_queries, of_keys) = self.whole.pattern.block();
        self.queries.is_multiple_of(of_queries) && self.keys.is_multiple_of(of_keys.max(64))
    }
}

impl Pattern for Part<'_> {
    fn name(&self) -> &'static str {
        self.whole.pattern.name()
    }

    fn block(&self) -> (usize, usize) {
        self.whole.pattern.block()
    }

    fn differs(&self) -> (bool, bool) {
        self.whole.pattern.differs()
    }

    fn packing(&self) -> Packing {
        Packing::Refused
    }

    fn count(&self, _: &Sizes, b: usize, h: usize, i: usize, j: usize) -> u32 {
        self.whole.pattern.count(&self.whole.of, b, h, i + self.queries, j + self.keys)
    }

    fn visit(&self, of: &Sizes, b: usize, h: usize, queries: Range<usize>, keys: Range<usize>, row: &mut Vec<Entry>) {
        let (at, (rows, width)) = (row.len(), self.block());
        let queries = queries.start + self.queries..queries.end + self.queries;
        let keys = keys.start + self.keys..keys.end.min(of.keys) + self.keys;
        let (aligned, mut found) = (self.aligned(), Vec::new());
        for queries in blocks(queries, rows) {
            self.whole.pattern.visit(&self.whole.of, b, h, queries, keys.clone(), &mut found);
        }
        for entry in found {
            let first = entry.keys as usize * width;
            let own = first.max(keys.start)..(first + width).min(keys.end);
            if own.is_empty() {
                continue;
            }
            let own = own.start - self.keys..own.end - self.keys;
            if aligned {
                row.push(Entry { keys: (own.start / width) as u32, ..entry });
            } else {
                row.extend((own.start / width..own.end.div_ceil(width)).map(Entry::cut));
            }
        }
        join(row, at);
    }

    fn seen(&self, of: &Sizes, b: usize, h: usize, i: usize, keys: Range<usize>) -> u64 {
        if self.aligned() {
            let keys = keys.start + self.keys..keys.end + self.keys;
            return self.whole.pattern.seen(&self.whole.of, b, h, i + self.queries, keys);
        }
        // What the pattern says of keys in blocks that it visits in full has no meaning, and blocks are elsewhere here.
        let bit = |(n, j)| u64::from(self.count(of, b, h, i, j) > 0) << n;
        keys.enumerate().fold(0, |bits, key| bits | bit(key))
    }

    fn scattered(&self) -> bool {
        self.whole.pattern.scattered()
    }

    fn list(&self, of: &Sizes, b: usize, h: usize, i: usize, keys: &mut Vec<u32>) {
        let mut all = Vec::new();
        self.whole.pattern.list(&self.whole.of, b, h, i + self.queries, &mut all);
        let own = self.keys..self.keys + of.keys;
        keys.extend(all.into_iter().filter(|j| own.contains(&(*j as usize))).map(|j| j - self.keys as u32));
    }
}
