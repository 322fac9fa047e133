//! The tiles of keys that each tile of queries visits: a pattern as words that a kernel walks.
//!
//! A tile of queries is a run of positions, at most [`Plan::rows`]; a cell is the [`Plan::keys`] keys from a multiple of
//! that number on. An entry is a cell that some query of the tile attends to. Entries in which some pair is masked have
//! one bit for each pair; the pattern itself is never evaluated on the device, so that any pattern runs there.

use std::collections::BTreeMap;
use std::ops::Range;

use longreach_attention::softmax::{Packing, Pattern, Sizes};
use ndarray::ArrayView2;

use crate::error::Error;
use crate::tile::Plan;

/// In place of an index into the bits: no pair of the entry is masked.
pub const FULL: u32 = u32::MAX;

/// Words of an entry: the cell, the index of its bits or [`FULL`], the bits of the logarithm (f32) of how often each key
/// counts, and the tile of queries.
pub const ENTRY: usize = 4;

/// What limits a pattern: padding and packed sequences.
#[derive(Clone, Copy, Debug, Default)]
pub struct Within<'a> {
    /// Which keys are tokens, `[B, S]`.
    pub keep: Option<ArrayView2<'a, bool>>,
    /// Where the sequences of a batch of one begin and end.
    pub packed: Option<&'a [usize]>,
}

/// A pattern as lists of entries. Offsets are into [`Lists::words`].
#[derive(Clone, Debug, PartialEq)]
pub struct Lists {
    /// The words.
    pub words: Vec<u32>,
    /// The number of tiles of queries.
    pub tiles: usize,
    /// The number of cells.
    pub cells: usize,
    /// The numbers of planes along sequences and heads: 1 where lists do not differ.
    pub planes: (usize, usize),
    /// Where the tiles are: the first query of each, counted from the first query of the call, and their number.
    pub tile: usize,
    /// Where the order is in which cubes take the tiles of each plane: those with the longest lists first.
    pub order: usize,
    /// Where the starts of lists are: for each plane, that of each tile, and the end. Counted in entries.
    pub start: usize,
    /// Where the starts of the transposed lists are: for each plane, that of each cell, and the end.
    pub column: usize,
    /// Where the entries are, by plane, tile and cell.
    pub entry: usize,
    /// Where the indices of entries are, by plane, cell and tile.
    pub item: usize,
    /// Where the bits are: `keys / 32` words for each query of the tile.
    pub bits: usize,
    /// The most entries of a tile.
    pub longest: usize,
}

/// One entry before it is written.
#[derive(Default)]
struct Pair {
    /// One bit for each query and key; absent while no pair is masked.
    bits: Vec<u64>,
}

struct Builder<'a> {
    pattern: &'a dyn Pattern,
    of: &'a Sizes,
    plan: &'a Plan,
    keep: Option<ArrayView2<'a, bool>>,
    /// Which of several patterns this is.
    nth: usize,
    /// The entries of a tile, by cell, weight and pattern.
    pairs: BTreeMap<(usize, u32, usize), Pair>,
}

impl Lists {
    /// The lists of a pattern over these sizes. Errors where the pattern, or the bounds of packed sequences, do not fit
    /// the sizes, and where the lists are too long for a device.
    pub fn of(pattern: &dyn Pattern, of: &Sizes, within: Within<'_>, plan: &Plan) -> Result<Self, Error> {
        Self::sum(&[pattern], of, within, plan)
    }

    /// The lists of several patterns with blocks of one size: a key that several of them have counts as often, as in
    /// LongNet, whose branches are patterns. Errors as [`Lists::of`], and if there is no pattern or blocks differ.
    pub fn sum(patterns: &[&dyn Pattern], of: &Sizes, within: Within<'_>, plan: &Plan) -> Result<Self, Error> {
        let Some(&pattern) = patterns.first() else {
            let want = "at least one pattern".into();
            return Err(Error::Parameter { op: "softmax", parameter: "patterns", want, found: "none".into() });
        };
        let op = pattern.name();
        for other in patterns {
            other.check(of)?;
            if (other.block(), other.packing()) != (pattern.block(), pattern.packing()) {
                let (want, found) = (format!("{:?}, as the first", pattern.block()), format!("{:?}", other.block()));
                return Err(Error::Parameter { op, parameter: "block", want, found });
            }
        }
        if let Some(keep) = within.keep {
            crate::error::shape(op, "keep", &[of.batch, of.keys], keep.shape())?;
        }
        let sequences = sequences(op, of, within.packed)?;
        if within.packed.is_some() && pattern.packing() == Packing::Refused {
            let want = "one sequence for each row of the batch".into();
            let found = format!("{} packed sequences", sequences.len());
            return Err(Error::Parameter { op, parameter: "packed", want, found });
        }
        let differs = (patterns.iter().any(|of| of.differs().0), patterns.iter().any(|of| of.differs().1));
        let planes = (
            if differs.0 || within.keep.is_some() { of.batch } else { of.batch.min(1) },
            if differs.1 { of.heads } else { of.heads.min(1) },
        );
        let tiles = tiles(pattern, of, &sequences, plan);
        let mut lists: Vec<Vec<(usize, u32, Vec<u64>)>> = Vec::new();
        for b in 0..planes.0 {
            for h in 0..planes.1 {
                for tile in &tiles {
                    let pairs = BTreeMap::new();
                    let mut builder = Builder { pattern, of, plan, keep: within.keep, nth: 0, pairs };
                    for (nth, pattern) in patterns.iter().enumerate() {
                        (builder.nth, builder.pattern) = (nth, *pattern);
                        builder.tile((b, h), tile, &sequences)?;
                    }
                    lists.push(builder.finish(tile.len()));
                }
            }
        }
        let cells = of.keys.div_ceil(plan.keys);
        let lists = write(&tiles, &lists, of, planes, cells, plan);
        crate::error::most(op, "the number of words of the pattern's lists", i32::MAX as usize, lists.words.len())?;
        Ok(lists)
    }
}

/// The key ranges of the packed sequences; one that is everything if there are none.
fn sequences(op: &'static str, of: &Sizes, packed: Option<&[usize]>) -> Result<Vec<Range<usize>>, Error> {
    let Some(bounds) = packed else { return Ok(std::iter::once(0..of.keys).collect()) };
    let rises = bounds.windows(2).all(|w| w[0] <= w[1]);
    let covers = bounds.first() == Some(&0) && bounds.last() == Some(&of.keys) && of.queries.end <= of.keys;
    if of.batch != 1 || !rises || !covers {
        let (tokens, batch, found) = (of.keys, of.batch, bounds.to_vec());
        return Err(longreach_attention::Error::Boundaries { op, tokens, batch, found }.into());
    }
    Ok(bounds.windows(2).map(|w| w[0]..w[1]).filter(|range| !range.is_empty()).collect())
}

/// Runs of positions that neither a sequence, nor a block of the pattern, nor a tile of the plan divides.
fn tiles(pattern: &dyn Pattern, of: &Sizes, sequences: &[Range<usize>], plan: &Plan) -> Vec<Range<usize>> {
    let (block, own) = (pattern.block().0, pattern.packing() == Packing::Sequence);
    let mut tiles = Vec::new();
    let mut at = of.queries.start;
    while at < of.queries.end {
        let sequence = sequences.iter().find(|range| range.contains(&at));
        // Positions after the last key belong to no sequence; some patterns have them.
        let (origin, end) = match sequence {
            Some(range) if sequences.len() > 1 => (if own { range.start } else { 0 }, range.end),
            _ => (0, usize::MAX),
        };
        let next = |size: usize| origin + ((at - origin) / size + 1) * size;
        let to = next(block).min(at + plan.rows).min(end).min(of.queries.end);
        tiles.push(at..to);
        at = to;
    }
    tiles
}

impl Builder<'_> {
    /// Collects the entries of a tile, whose queries are of one sequence.
    fn tile(&mut self, plane: (usize, usize), tile: &Range<usize>, sequences: &[Range<usize>]) -> Result<(), Error> {
        let packed = sequences.len() > 1;
        let own = if packed { sequences.iter().find(|range| range.contains(&tile.start)).cloned() } else { None };
        let own = own.unwrap_or(0..self.of.keys);
        if packed && self.pattern.packing() == Packing::Sequence {
            // Its positions count from the start of the sequence.
            let queries = tile.start - own.start..tile.end - own.start;
            let (first, last) = (self.of.queries.start.max(own.start), self.of.queries.end.min(own.end));
            let of = Sizes { queries: first - own.start..last - own.start, keys: own.len(), ..self.of.clone() };
            self.pattern.check(&of)?;
            self.visit(plane, &of, queries, 0..own.len(), own.start);
        } else {
            let of = self.of;
            self.visit(plane, of, tile.clone(), own, 0);
        }
        Ok(())
    }

    /// Visits the blocks of `queries` within `keys`; both count from `origin`.
    fn visit(&mut self, (b, h): (usize, usize), of: &Sizes, queries: Range<usize>, keys: Range<usize>, origin: usize) {
        let mut row = Vec::new();
        self.pattern.visit(of, b, h, queries.clone(), keys.clone(), &mut row);
        let block = self.pattern.block().1;
        for entry in row {
            let start = entry.keys as usize * block;
            let end = (start + block).min(of.keys);
            // Bits are asked for 64 keys at a time, from a multiple of 64.
            for from in (start / 64 * 64..end).step_by(64) {
                let asked = from..(from + 64).min(of.keys);
                let part = start.max(from)..end.min(asked.end);
                let mut mask = span(&part, from) & span(&keys, from);
                if let Some(keep) = self.keep {
                    for j in part.clone().filter(|j| !keep[[b, j + origin]]) {
                        mask &= !(1 << (j - from));
                    }
                }
                for (r, i) in queries.clone().enumerate() {
                    let seen = if entry.cut { self.pattern.seen(of, b, h, i, asked.clone()) } else { u64::MAX };
                    self.set(r, queries.len(), origin + from, seen & mask, entry.log_weight);
                }
            }
        }
    }

    /// Marks the pairs of row `r` with the keys `first + n` for the set bits `n`.
    fn set(&mut self, r: usize, rows: usize, first: usize, mut bits: u64, log_weight: f32) {
        let (width, words) = (self.plan.keys, self.plan.keys.div_ceil(64));
        while bits != 0 {
            let n = bits.trailing_zeros() as usize;
            let (cell, place) = ((first + n) / width, (first + n) % width);
            let pair = self.pairs.entry((cell, log_weight.to_bits(), self.nth)).or_default();
            pair.bits.resize(rows * words, 0);
            // All bits of this cell at once.
            let room = (width - place).min(64 - n).min(64 - place % 64);
            let taken = (bits >> n) & below(room);
            pair.bits[r * words + place / 64] |= taken << (place % 64);
            bits &= !(below(room) << n);
        }
    }

    /// The entries of a tile by cell: the bits of one without masked pairs are left out.
    fn finish(self, rows: usize) -> Vec<(usize, u32, Vec<u64>)> {
        let (width, words) = (self.plan.keys, self.plan.keys.div_ceil(64));
        let whole = |cell: usize, bits: &[u64]| {
            let keys = (self.of.keys - cell * width).min(width);
            (0..rows * words).all(|at| bits[at] == below(keys.saturating_sub(at % words * 64).min(64)))
        };
        let pairs = self.pairs.into_iter();
        pairs
            .map(|((cell, weight, _), pair)| {
                (cell, weight, if whole(cell, &pair.bits) { Vec::new() } else { pair.bits })
            })
            .collect()
    }
}

/// The bits of `keys` among the 64 from `from` on.
fn span(keys: &Range<usize>, from: usize) -> u64 {
    below(keys.end.saturating_sub(from).min(64)) & !below(keys.start.saturating_sub(from).min(64))
}

/// The lowest `n` bits, up to 64.
fn below(n: usize) -> u64 {
    if n >= 64 { u64::MAX } else { (1 << n) - 1 }
}

/// Writes the lists and their transpose.
fn write(
    tiles: &[Range<usize>],
    lists: &[Vec<(usize, u32, Vec<u64>)>],
    of: &Sizes,
    planes: (usize, usize),
    cells: usize,
    plan: &Plan,
) -> Lists {
    let mut words: Vec<u32> = Vec::new();
    for tile in tiles {
        words.extend([(tile.start - of.queries.start) as u32, tile.len() as u32]);
    }
    let (per, count) = (tiles.len(), planes.0 * planes.1);
    let order = words.len();
    for plane in lists.chunks(per.max(1)) {
        let mut by_length: Vec<u32> = (0..per as u32).collect();
        by_length.sort_by_key(|tile| std::cmp::Reverse(plane[*tile as usize].len()));
        words.extend(by_length);
    }
    let start = words.len();
    let mut entries = 0u32;
    for plane in lists.chunks(per.max(1)) {
        for list in plane {
            words.push(entries);
            entries += list.len() as u32;
        }
        words.push(entries);
    }
    let (mut records, mut bits): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
    let mut columns = vec![Vec::new(); cells * count];
    let mut longest = 0;
    for (at, list) in lists.iter().enumerate() {
        longest = longest.max(list.len());
        for (cell, weight, pairs) in list {
            columns[at / per * cells + cell].push((records.len() / ENTRY) as u32);
            let place = if pairs.is_empty() { FULL } else { bits.len() as u32 };
            records.extend([*cell as u32, place, *weight, (at % per) as u32]);
            let halves = plan.keys.div_ceil(32);
            for row in pairs.chunks(plan.keys.div_ceil(64)) {
                bits.extend((0..halves).map(|half| (row[half / 2] >> (32 * (half % 2))) as u32));
            }
        }
    }
    let column = words.len();
    let (mut items, mut total) = (Vec::<u32>::new(), 0u32);
    for plane in columns.chunks(cells.max(1)) {
        for list in plane {
            words.push(total);
            total += list.len() as u32;
            items.extend(list);
        }
        words.push(total);
    }
    let entry = words.len();
    words.extend(records);
    let item = words.len();
    words.extend(items);
    let place = words.len();
    words.extend(bits);
    Lists { words, tiles: per, cells, planes, tile: 0, order, start, column, entry, item, bits: place, longest }
}
