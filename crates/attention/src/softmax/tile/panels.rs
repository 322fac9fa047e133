//! Panels, which are one vector of keys each: their masks, their packing, and the products of queries with them.

use std::ops::Range;

use longreach_simd::Lanes;
use longreach_simd::product::{Cached, Matrix, StoredSlices, pack_transposed, strip, widen};

use super::super::mask::{Entry, below};
use super::{Call, ROWS, STEP, Slices, TILE, prefetch_after};

/// The mask of a tile's rows over the panels they visit.
pub(super) struct Visibility {
    /// For each word of 64 keys with cut panels, the bit mask of each row.
    pub(super) bits: Vec<[u64; TILE]>,
    /// The same, as the union over each strip of rows.
    pub(super) any: Vec<[u64; TILE / ROWS]>,
    /// For each strip of rows, the range of a step's panels that it attends to.
    pub(super) range: [(usize, usize); TILE / ROWS],
}

impl Visibility {
    pub(super) fn new() -> Self {
        Self { bits: Vec::new(), any: Vec::new(), range: [(0, 0); TILE / ROWS] }
    }

    /// Evaluates the mask of `rows` queries of a head, starting at `t`; removes panels that are fully masked.
    pub(super) fn evaluate(
        &mut self,
        call: &Call<'_>,
        (b, h, t): (usize, usize, usize),
        rows: usize,
        panels: &mut Vec<Panel>,
        lanes: usize,
    ) {
        self.bits.clear();
        self.any.clear();
        if panels.iter().all(|panel| !panel.cut) {
            return;
        }
        let mut last = usize::MAX;
        panels.retain_mut(|panel| {
            if !panel.cut {
                return true;
            }
            let at = panel.key / 64 * 64;
            if at != last {
                let there = at..(at + 64).min(call.dims.s);
                let (mut bits, mut any) = ([0; TILE], [0; TILE / ROWS]);
                for (r, bits) in bits[..rows].iter_mut().enumerate() {
                    *bits = call.seen((b, h, t + r), there.clone()) & below(there.len());
                    any[r / ROWS] |= *bits;
                }
                self.bits.push(bits);
                self.any.push(any);
                last = at;
            }
            (panel.word, panel.shift) = (self.bits.len() as u32 - 1, (panel.key - at) as u8);
            let any = self.any[panel.word as usize].iter().fold(0, |all, any| all | any);
            any >> panel.shift & below(lanes) != 0
        });
    }

    /// Sets the range of panels that each strip of `rows` queries attends to.
    pub(super) fn step(&mut self, rows: usize, panels: &[Panel], lanes: usize) {
        self.range = [(0, panels.len()); TILE / ROWS];
        if self.bits.is_empty() {
            return;
        }
        for (strip, range) in self.range[..rows.div_ceil(ROWS)].iter_mut().enumerate() {
            let seen =
                |panel: &Panel| !panel.cut || self.any[panel.word as usize][strip] >> panel.shift & below(lanes) != 0;
            *range = match panels.iter().position(seen) {
                Some(first) => (first, panels.iter().rposition(seen).map_or(first, |last| last + 1)),
                None => (usize::MAX, 0),
            };
        }
    }

    /// The bit mask of row `r` in a cut panel.
    #[inline(always)]
    pub(super) fn bits(&self, panel: &Panel, r: usize) -> u32 {
        (self.bits[panel.word as usize][r] >> panel.shift) as u32
    }

    /// The range of panels that row `r`'s strip attends to.
    #[inline(always)]
    pub(super) fn panels(&self, r: usize) -> Range<usize> {
        self.range[r / ROWS].0..self.range[r / ROWS].1
    }

    /// Intersects `panels` with the range of row `r`'s strip.
    #[inline(always)]
    pub(super) fn clip(&self, r: usize, panels: Range<usize>) -> Range<usize> {
        let (first, end) = self.range[r / ROWS];
        panels.start.max(first)..panels.end.min(end)
    }
}

/// One vector of keys.
#[derive(Clone, Copy)]
pub(super) struct Panel {
    /// Its slot among the packed panels.
    pub(super) at: usize,
    /// Its first key.
    pub(super) key: usize,
    pub(super) cut: bool,
    pub(super) log_weight: f32,
    /// For a cut panel, the index of its word in [`Visibility`] and its shift in that word.
    pub(super) word: u32,
    pub(super) shift: u8,
}

/// Pushes the panels of an entry whose block is packed from slot `at` on.
#[inline(always)]
pub(super) fn push_panels<S: Lanes>(entry: Entry, block: usize, keys: usize, at: usize, panels: &mut Vec<Panel>) {
    let first = entry.keys as usize * block;
    for (n, key) in (first..(first + block).min(keys)).step_by(S::LANES).enumerate() {
        let cut = entry.cut || key + S::LANES > keys;
        panels.push(Panel { at: at + n, key, cut, log_weight: entry.log_weight, word: 0, shift: 0 });
    }
}

/// The number of panels that are contiguous with the first.
#[inline(always)]
pub(super) fn run(panels: &[Panel]) -> usize {
    let mut run = 1;
    while run < panels.len() && panels[run].at == panels[0].at + run {
        run += 1;
    }
    run
}

/// The elements of a row that hold some of its numbers, which are whole elements.
#[inline(always)]
fn elements<T: Cached>(numbers: &Range<usize>) -> Range<usize> {
    numbers.start / T::NUMBERS..numbers.end / T::NUMBERS
}

/// Packs one vector of rows, transposed: `[width, LANES]`.
#[inline(always)]
pub(super) fn pack_columns<S: Lanes>(s: S, x: &Slices<'_>, b: usize, g: usize, tokens: Range<usize>, out: &mut [f32]) {
    #[inline(always)]
    fn pack<S: Lanes, T: Cached>(s: S, all: &[&[T]], tokens: Range<usize>, part: Range<usize>, out: &mut [f32]) {
        let mut rows = [&[][..]; 16];
        for (row, j) in rows.iter_mut().zip(tokens.clone()) {
            *row = &all[j][elements::<T>(&part)];
            prefetch_after(all, j, elements::<T>(&part));
        }
        pack_transposed(s, &rows[..tokens.len()], part.len(), out);
    }
    let (own, part) = (b * x.length..(b + 1) * x.length, g * x.width..(g + 1) * x.width);
    match &x.tokens {
        StoredSlices::F32(all) => pack(s, &all[own], tokens, part, out),
        StoredSlices::Bf16(all) => pack(s, &all[own], tokens, part, out),
        StoredSlices::Q8(all) => pack(s, &all[own], tokens, part, out),
    }
}

/// Packs rows with zero padding: `[rows, wide]`.
#[inline(always)]
pub(super) fn pack_rows<S: Lanes>(
    s: S,
    x: &Slices<'_>,
    b: usize,
    g: usize,
    tokens: Range<usize>,
    wide: usize,
    out: &mut [f32],
) {
    #[inline(always)]
    fn pack<S: Lanes, T: Cached>(
        s: S,
        all: &[&[T]],
        tokens: Range<usize>,
        part: Range<usize>,
        wide: usize,
        out: &mut [f32],
    ) {
        for (i, row) in out.chunks_exact_mut(wide).enumerate() {
            if i < tokens.len() {
                widen(s, &all[tokens.start + i][elements::<T>(&part)], &mut row[..part.len()]);
                prefetch_after(all, tokens.start + i, elements::<T>(&part));
                row[part.len()..].fill(0.0);
            } else {
                row.fill(0.0);
            }
        }
    }
    let (own, part) = (b * x.length..(b + 1) * x.length, g * x.width..(g + 1) * x.width);
    match &x.tokens {
        StoredSlices::F32(all) => pack(s, &all[own], tokens, part, wide, out),
        StoredSlices::Bf16(all) => pack(s, &all[own], tokens, part, wide, out),
        StoredSlices::Q8(all) => pack(s, &all[own], tokens, part, wide, out),
    }
}

/// Products of a tile's rows, `wide` apart, with the columns of the panels they attend to: `[rows, STEP]`, with panels
/// contiguous.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "two factors and where the product goes")]
pub(super) fn products<S: Lanes>(
    s: S,
    (rows, wide): (usize, usize),
    tile: &[f32],
    panels: &[Panel],
    visibility: &Visibility,
    columns: &[f32],
    width: usize,
    mut epilogue: impl Epilogue<S>,
) {
    let size = S::LANES * width;
    for (i, pair) in panels.chunks(2).enumerate() {
        let b = [&columns[pair[0].at * size..][..size], &columns[pair[pair.len() - 1].at * size..][..size]];
        for first in (0..rows).step_by(ROWS) {
            if visibility.clip(first, 2 * i..2 * i + 2).is_empty() {
                continue;
            }
            let a = Matrix::rows(&tile[first * wide..], wide);
            let acc = strip::<S, ROWS>(s, a, width, b, S::LANES, [[s.splat(0.0); 2]; ROWS]);
            for (r, acc) in acc.into_iter().enumerate() {
                let at = (first + r) * STEP + 2 * i * S::LANES;
                epilogue.apply(s, first + r, at, acc[0]);
                if pair.len() == 2 {
                    epilogue.apply(s, first + r, at + S::LANES, acc[1]);
                }
            }
        }
    }
}

/// What is done with a vector of products: row `r`, offset `at`.
pub(super) trait Epilogue<S: Lanes> {
    fn apply(&mut self, s: S, r: usize, at: usize, product: S::V);
}

/// Stores products times a factor.
pub(super) struct ScaledStore<'a>(pub(super) &'a mut [f32], pub(super) f32);

impl<S: Lanes> Epilogue<S> for ScaledStore<'_> {
    #[inline(always)]
    fn apply(&mut self, s: S, _: usize, at: usize, product: S::V) {
        s.store(&mut self.0[at..], s.mul(product, s.splat(self.1)));
    }
}
