//! Forward pass: a task owns a range of queries of the heads that share keys.
//!
//! Where a tile of queries visits few keys, they are packed on demand into a cache of blocks with LRU replacement, and
//! each tile is completed before the next, `STEP` gathered keys at a time. Where it visits many, the keys are processed
//! `STEP` at a time: those that some query visits are packed, and every tile is advanced over them. Either way a step
//! computes scores, their running maximum, exponentials and weighted values (online softmax). Milakov and Gimelshein
//! 2018; Dao et al. 2022 (FlashAttention), algorithm 1.

use std::ops::Range;

use longreach_simd::product::{Matrix, Stored, strip};
use longreach_simd::split::Part;
use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::Array3;

use super::super::mask::{Entry, Pattern};
use super::super::{Inputs, packed_sequences};
use super::{
    Call, Dims, HIDDEN, LOG2_E, Output, Panel, ROWS, STEP, ScaledStore, TILE, Visibility, finite, higher, pack_columns,
    pack_rows, products, push_panels, run, scattered, zeros,
};
use crate::Error;

/// Queries per task, over all heads that share its keys and hence the packing.
const RANGE: usize = 1024;
/// As [`RANGE`], with packing on demand, where only keys at the boundary of two tasks are packed twice.
const ON_DEMAND_RANGE: usize = 1024;
/// Bytes of packed keys and values that fit in cache.
const CACHE_BYTES: usize = 3 << 18;

/// Attention of all queries over the keys that the pattern selects.
///
/// O(visited pairs × (D + E)) time; allocates little more than the outputs. Rows that attend to no key are zero, with a
/// log-sum-exp of −∞. Errors on wrong shapes and sizes.
pub fn forward<T: Stored>(x: &Inputs<'_, T>, pattern: &dyn Pattern, cx: &Cx) -> Result<Output, Error> {
    if packed_sequences::needed(x, pattern)? {
        return packed_sequences::forward(pattern.name(), x, |x| forward(x, pattern, cx));
    }
    let call = Call::new(x, pattern)?;
    if pattern.scattered() {
        return scattered::forward(&call, cx);
    }
    let Dims { b, t, h, g, e, .. } = call.dims;
    let mut out = zeros((b, t, h, e));
    let mut lse = Array3::zeros((b, t, h));
    let mut tasks = Vec::new();
    let per_row = (out.as_slice_mut().unwrap_or_default(), lse.as_slice_mut().unwrap_or_default());
    let outs = per_row.0.chunks_mut((t * h * e).max(1));
    let heads = h / g;
    for (b, (out, lse)) in outs.zip(per_row.1.chunks_mut((t * h).max(1))).enumerate() {
        let parts = Part::whole(out, h * e).columns(heads * e).zip(Part::whole(lse, h).columns(heads));
        for (g, (mut out, mut lse)) in parts.enumerate() {
            for (blocks, fits_in_cache) in ranges(&call, b, g, cx.team.threads()) {
                let first = call.queries(blocks.start).start;
                let rows = call.queries(blocks.end - 1).end - first;
                let (out, lse) = (out.take(rows), lse.take(rows));
                tasks.push(Task { call: &call, b, g, blocks, fits_in_cache, first, out, lse });
            }
        }
    }
    // Under a causal mask the last queries have the most work, so they start first.
    tasks.reverse();
    cx.team.for_each(tasks, |task| cx.isa.run(task));
    Ok(Output { out, lse })
}

/// Splits the query blocks of a group into ranges, each with whether all keys that one of its blocks visits fit in
/// cache. There are enough ranges for every thread.
fn ranges(call: &Call<'_>, b: usize, g: usize, threads: usize) -> Vec<(Range<usize>, bool)> {
    let Dims { b: batch, h, g: groups, .. } = call.dims;
    let heads = g * (h / groups)..(g + 1) * (h / groups);
    let most = cached_blocks(call);
    let all = call.mask.rows();
    let enough = (batch * groups * all.len()).div_ceil(4 * threads);
    let longest = |on_demand: bool| {
        let range = if on_demand { ON_DEMAND_RANGE } else { RANGE };
        (range / (heads.len() * call.mask.block().0).max(1)).min(enough).max(1)
    };
    let mut ranges: Vec<(Range<usize>, bool)> = Vec::new();
    for i in all {
        let fits = heads.clone().all(|h| call.mask.row(b, h, i).len() <= most);
        match ranges.last_mut() {
            Some((last, same)) if *same == fits && last.len() < longest(fits) => last.end = i + 1,
            _ => ranges.push((i..i + 1, fits)),
        }
    }
    ranges
}

/// The number of packed blocks of keys and values that fit in cache.
fn cached_blocks(call: &Call<'_>) -> usize {
    let Dims { d, e, .. } = call.dims;
    (CACHE_BYTES / (4 * (d + e) * call.mask.block().1)).max(1)
}

/// A range of queries of the heads of a group.
struct Task<'a, 'o> {
    call: &'a Call<'a>,
    b: usize,
    g: usize,
    /// The query blocks.
    blocks: Range<usize>,
    /// Whether all keys that a tile visits fit in cache; otherwise keys are packed step by step.
    fits_in_cache: bool,
    /// The first query.
    first: usize,
    /// `[queries, heads, E]`
    out: Part<'o>,
    /// `[queries, heads]`
    lse: Part<'o>,
}

/// Queries of one head and one query block.
struct Tile<'a> {
    h: usize,
    first: usize,
    rows: usize,
    /// The entries that it has not processed yet.
    entries: &'a [Entry],
}

impl Kernel for Task<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        if self.fits_in_cache { self.pack_on_demand(s) } else { self.pack_in_steps(s) }
    }
}

impl<'a> Task<'a, '_> {
    fn tiles(&self) -> Vec<Tile<'a>> {
        let call = self.call;
        let heads = call.dims.h / call.dims.g;
        let mut tiles = Vec::new();
        for i in self.blocks.clone() {
            let queries = call.queries(i);
            for h in self.g * heads..(self.g + 1) * heads {
                let entries = call.mask.row(self.b, h, i);
                for first in queries.clone().step_by(TILE) {
                    tiles.push(Tile { h, first, rows: TILE.min(queries.end - first), entries });
                }
            }
        }
        tiles
    }

    /// Processes tile by tile; packed keys stay in cache for the next tiles.
    #[inline(always)]
    fn pack_on_demand<S: Lanes>(&mut self, s: S) {
        let call = self.call;
        let Dims { d, e, s: all, .. } = call.dims;
        let block = call.mask.block().1;
        let wide = e.next_multiple_of(2 * S::LANES);
        let tiles = self.tiles();
        // No more than a tile needs, so that the packed keys stay in the CPU cache.
        let room = tiles.iter().map(|tile| tile.entries.len()).max().unwrap_or(0);
        let (of_state, of_keys) = (State::size(d, wide), room * block * (d + wide));
        let scratch = &mut Scratch::new(of_state + of_keys + Work::size(S::LANES));
        let (state, rest) = scratch.split_at_mut(of_state);
        let (packed, rest) = rest.split_at_mut(of_keys);
        let mut packed = Packed::new(packed, d, wide);
        let mut work = Work::new(rest, S::LANES);
        let mut cache = PackCache::new(room, all.div_ceil(block));
        let mut done = vec![false; room * block / S::LANES];
        let mut visited = Vec::new();
        for tile in tiles {
            visited.clear();
            cache.next_turn(tile.entries);
            for entry in tile.entries {
                let (slot, new) = cache.slot(entry.keys);
                push_panels::<S>(*entry, block, all, slot * block / S::LANES, &mut visited);
                if new {
                    packed.forget(slot * block..(slot + 1) * block);
                    done[slot * block / S::LANES..(slot + 1) * block / S::LANES].fill(false);
                }
            }
            work.visibility.evaluate(call, (self.b, tile.h, tile.first), tile.rows, &mut visited, S::LANES);
            for panel in &visited {
                if !std::mem::replace(&mut done[panel.at], true) {
                    packed.pack(s, call, self.b, self.g, *panel);
                }
            }
            let mut state = State::new(state, d, wide);
            state.start(s, call, self.b, &tile);
            // Split into steps of equal size.
            let steps = visited.len().div_ceil(STEP / S::LANES).max(1);
            for panels in visited.chunks(visited.len().div_ceil(steps).next_multiple_of(2).max(2)) {
                work.step(s, call, self.b, &tile, &mut state, panels, &packed);
            }
            self.finish(s, &tile, &state);
        }
    }

    /// Processes step by step, with all tiles advanced over each step's keys.
    #[inline(always)]
    fn pack_in_steps<S: Lanes>(&mut self, s: S) {
        let call = self.call;
        let Dims { d, e, s: all, .. } = call.dims;
        let block = call.mask.block().1;
        let wide = e.next_multiple_of(2 * S::LANES);
        let mut tiles = self.tiles();
        let (of_states, of_keys) = (tiles.len() * State::size(d, wide), STEP * (d + wide));
        let scratch = &mut Scratch::new(of_states + of_keys + Work::size(S::LANES));
        let (states, rest) = scratch.split_at_mut(of_states);
        let (packed, rest) = rest.split_at_mut(of_keys);
        let mut packed = Packed::new(packed, d, wide);
        let mut work = Work::new(rest, S::LANES);
        for (tile, state) in tiles.iter().zip(states.chunks_exact_mut(State::size(d, wide))) {
            State::new(state, d, wide).start(s, call, self.b, tile);
        }
        let mut visited = Vec::with_capacity(STEP / S::LANES);
        // The next blocks that some tile visits, contiguous or not.
        let (many, mut blocks) = (STEP / block, Vec::new());
        loop {
            blocks.clear();
            blocks.extend(tiles.iter().flat_map(|tile| tile.entries.iter().take(many)).map(|entry| entry.keys));
            blocks.sort_unstable();
            blocks.dedup();
            blocks.truncate(many);
            let Some(&last) = blocks.last() else { break };
            let mut done = [false; STEP];
            packed.non_finite.clear();
            for (tile, state) in tiles.iter_mut().zip(states.chunks_exact_mut(State::size(d, wide))) {
                visited.clear();
                let mut n = 0;
                while let [entry, rest @ ..] = tile.entries
                    && entry.keys <= last
                {
                    while blocks[n] != entry.keys {
                        n += 1;
                    }
                    push_panels::<S>(*entry, block, all, n * block / S::LANES, &mut visited);
                    tile.entries = rest;
                }
                work.visibility.evaluate(call, (self.b, tile.h, tile.first), tile.rows, &mut visited, S::LANES);
                if visited.is_empty() {
                    continue;
                }
                for panel in &visited {
                    if !std::mem::replace(&mut done[panel.at], true) {
                        packed.pack(s, call, self.b, self.g, *panel);
                    }
                }
                work.step(s, call, self.b, tile, &mut State::new(state, d, wide), &visited, &packed);
            }
        }
        for (tile, state) in tiles.iter().zip(states.chunks_exact_mut(State::size(d, wide))) {
            self.finish(s, tile, &State::new(state, d, wide));
        }
    }

    /// Normalises a tile's sums, adds the sink and writes the outputs.
    #[inline(always)]
    fn finish<S: Lanes>(&mut self, s: S, tile: &Tile<'_>, state: &State<'_>) {
        let call = self.call;
        let Dims { h, g, e, .. } = call.dims;
        let head = tile.h - self.g * (h / g);
        for r in 0..tile.rows {
            let row = tile.first + r - self.first;
            let (mut high, mut sum) = (state.highest[r], state.total[r]);
            let mut keep = 1.0;
            if let Some(sinks) = &call.x.sinks {
                let sink = sinks[tile.h] * LOG2_E;
                let top = high.max(sink);
                keep = (high - top).exp2();
                sum = sum * keep + (sink - top).exp2();
                high = top;
            }
            let scale = if sum == 0.0 { 0.0 } else { keep / sum };
            let from = &state.sums[r * state.wide..r * state.wide + e];
            math::scale_into(s, scale, from, &mut self.out.row(row)[head * e..(head + 1) * e]);
            self.lse.row(row)[head] = if sum == 0.0 { f32::NEG_INFINITY } else { high / LOG2_E + sum.ln() };
        }
    }
}

/// The replacement policy of the packed blocks: which are packed, and where.
struct PackCache {
    /// For each slot, its block and the turn in which it was last used.
    slots: Vec<(u32, usize)>,
    /// The slot of each block, if packed.
    of: Vec<Option<u32>>,
    turn: usize,
}

impl PackCache {
    fn new(room: usize, blocks: usize) -> Self {
        Self { slots: vec![(u32::MAX, 0); room], of: vec![None; blocks], turn: 0 }
    }

    /// Starts the next tile: marks the packed blocks that it needs as used, so that they are not evicted.
    fn next_turn(&mut self, entries: &[Entry]) {
        self.turn += 1;
        for entry in entries {
            if let Some(slot) = self.of[entry.keys as usize] {
                self.slots[slot as usize].1 = self.turn;
            }
        }
    }

    /// The slot of a block, and whether it must be packed there; if so, it replaces the least recently used block.
    fn slot(&mut self, block: u32) -> (usize, bool) {
        if let Some(slot) = self.of[block as usize] {
            return (slot as usize, false);
        }
        let oldest = (0..self.slots.len()).min_by_key(|n| self.slots[*n].1).unwrap_or(0);
        if let Some(there) = self.of.get_mut(self.slots[oldest].0 as usize) {
            *there = None;
        }
        self.slots[oldest] = (block, self.turn);
        self.of[block as usize] = Some(oldest as u32);
        (oldest, true)
    }
}

/// Packed keys and values, in panels of one vector of keys.
struct Packed<'a> {
    /// Panels `[D, LANES]`.
    k: &'a mut [f32],
    /// Panels `[LANES, wide]`.
    v: &'a mut [f32],
    d: usize,
    wide: usize,
    /// Non-finite values with the slots of their keys: zero times them would spoil rows that do not attend to them.
    non_finite: Vec<(usize, Vec<f32>)>,
}

impl<'a> Packed<'a> {
    fn new(memory: &'a mut [f32], d: usize, wide: usize) -> Self {
        let (k, v) = memory.split_at_mut(memory.len() / (d + wide) * d);
        Self { k, v, d, wide, non_finite: Vec::new() }
    }

    /// Drops the non-finite values of these slots.
    fn forget(&mut self, slots: Range<usize>) {
        self.non_finite.retain(|(at, _)| !slots.contains(at));
    }

    #[inline(always)]
    fn pack<S: Lanes>(&mut self, s: S, call: &Call<'_>, b: usize, g: usize, panel: Panel) {
        let (d, wide, at) = (self.d, self.wide, panel.at * S::LANES);
        let there = panel.key..(panel.key + S::LANES).min(call.dims.s);
        pack_columns(s, &call.k, b, g, there.clone(), &mut self.k[at * d..][..S::LANES * d]);
        let values = &mut self.v[at * wide..][..S::LANES * wide];
        pack_rows(s, &call.v, b, g, there, wide, values);
        if !finite(s, values) {
            for (i, row) in values.chunks_exact_mut(wide).enumerate() {
                if row.iter().any(|x| !x.is_finite()) {
                    self.non_finite.push((at + i, row.to_vec()));
                    row.fill(0.0);
                }
            }
        }
    }
}

/// The online-softmax state of a tile's rows.
struct State<'a> {
    /// Queries, `[TILE, D]`.
    q: &'a mut [f32],
    /// Weighted sums of values, `[TILE, wide]`.
    sums: &'a mut [f32],
    /// Running maximum of the scores, in base 2.
    highest: &'a mut [f32],
    /// Running sum of exponentials.
    total: &'a mut [f32],
    d: usize,
    wide: usize,
}

impl<'a> State<'a> {
    fn size(d: usize, wide: usize) -> usize {
        TILE * (d + wide + 2)
    }

    #[inline(always)]
    fn new(memory: &'a mut [f32], d: usize, wide: usize) -> Self {
        let (q, rest) = memory.split_at_mut(TILE * d);
        let (sums, rest) = rest.split_at_mut(TILE * wide);
        let (highest, total) = rest.split_at_mut(TILE);
        Self { q, sums, highest, total, d, wide }
    }

    /// The initial state.
    #[inline(always)]
    fn start<S: Lanes>(&mut self, s: S, call: &Call<'_>, b: usize, tile: &Tile<'_>) {
        self.sums.fill(0.0);
        self.highest.fill(HIDDEN);
        self.total.fill(0.0);
        pack_rows(s, &call.q, b, tile.h, tile.first..tile.first + tile.rows, self.d, self.q);
    }
}

/// The scores of a tile in one step, and buffers for their softmax.
struct Work<'a> {
    /// `[TILE, STEP]`, with visited panels contiguous.
    scores: &'a mut [f32],
    /// One vector per row, to be reduced.
    lanes: &'a mut [f32],
    /// Per row, what scores are measured from.
    base: &'a mut [f32],
    /// Per row, the factor that rescales the sums so far.
    rescale: &'a mut [f32],
    visibility: Visibility,
}

impl<'a> Work<'a> {
    fn size(lanes: usize) -> usize {
        TILE * (STEP + lanes + 2)
    }

    #[inline(always)]
    fn new(memory: &'a mut [f32], lanes: usize) -> Self {
        let (scores, rest) = memory.split_at_mut(TILE * STEP);
        let (lanes, rest) = rest.split_at_mut(TILE * lanes);
        let (base, rescale) = rest.split_at_mut(TILE);
        Self { scores, lanes, base, rescale, visibility: Visibility::new() }
    }

    /// Advances a tile over up to a step of packed keys.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "a tile, and what it meets")]
    fn step<S: Lanes>(
        &mut self,
        s: S,
        call: &Call<'_>,
        b: usize,
        tile: &Tile<'_>,
        state: &mut State<'_>,
        panels: &[Panel],
        packed: &Packed<'_>,
    ) {
        let d = state.d;
        self.visibility.step(tile.rows, panels, S::LANES);
        let scaled = ScaledStore(self.scores, call.factor());
        products(s, (tile.rows, d), state.q, panels, &self.visibility, packed.k, d, scaled);
        for (n, panel) in panels.iter().enumerate().filter(|(_, panel)| call.changes(panel)) {
            for r in (0..tile.rows).filter(|r| self.visibility.panels(*r).contains(&n)) {
                let part = &mut self.scores[r * STEP + n * S::LANES..][..S::LANES];
                let seen = if panel.cut { self.visibility.bits(panel, r) } else { u32::MAX };
                call.adjust(s, (b, tile.h, tile.first + r), *panel, seen, part, None);
            }
        }
        self.exponentials(s, tile, state);
        self.values(s, tile, state, panels, packed.v);
        for (at, value) in &packed.non_finite {
            self.add_non_finite(s, tile, state, panels, *at, value);
        }
    }

    /// Turns scores into exponentials, and updates the running maximum and sum.
    #[inline(always)]
    fn exponentials<S: Lanes>(&mut self, s: S, tile: &Tile<'_>, state: &mut State<'_>) {
        for r in 0..tile.rows {
            let mut high = s.splat(HIDDEN);
            let there = self.visibility.panels(r);
            let there = r * STEP + there.start.min(there.end) * S::LANES..r * STEP + there.end * S::LANES;
            for part in self.scores[there].chunks_exact(S::LANES) {
                high = s.max(high, s.load(part));
            }
            s.store(&mut self.lanes[r * S::LANES..], high);
        }
        for r in 0..tile.rows {
            let mut high = state.highest[r];
            for x in &self.lanes[r * S::LANES..(r + 1) * S::LANES] {
                high = higher(high, *x);
            }
            self.base[r] = if high <= HIDDEN { 0.0 } else { high };
            self.rescale[r] = state.highest[r] - self.base[r];
            state.highest[r] = high;
        }
        for part in self.rescale[..tile.rows].chunks_mut(S::LANES) {
            let e = math::exp2(s, s.load_part(part));
            s.store_part(part, e);
        }
        for r in 0..tile.rows {
            let base = s.splat(self.base[r]);
            let mut sum = s.splat(0.0);
            let there = self.visibility.panels(r);
            let there = r * STEP + there.start.min(there.end) * S::LANES..r * STEP + there.end * S::LANES;
            for part in self.scores[there].chunks_exact_mut(S::LANES) {
                let p = math::exp2(s, s.sub(s.load(part), base));
                s.store(part, p);
                sum = s.add(sum, p);
            }
            state.total[r] = state.total[r] * self.rescale[r] + s.sum(sum);
        }
    }

    /// Rescales the sums and accumulates the weighted values.
    #[inline(always)]
    fn values<S: Lanes>(&mut self, s: S, tile: &Tile<'_>, state: &mut State<'_>, panels: &[Panel], values: &[f32]) {
        let wide = state.wide;
        self.rescale[tile.rows..].fill(0.0);
        for column in (0..wide).step_by(2 * S::LANES) {
            for first in (0..tile.rows).step_by(ROWS) {
                let mut acc = [[s.splat(0.0); 2]; ROWS];
                for (r, acc) in acc.iter_mut().enumerate() {
                    let rescale = s.splat(self.rescale[first + r]);
                    let row = &state.sums[(first + r) * wide + column..];
                    *acc = [s.mul(rescale, s.load(row)), s.mul(rescale, s.load(&row[S::LANES..]))];
                }
                // Contiguous panels are multiplied in one product.
                let mut done = 0;
                while done < panels.len() {
                    let run = run(&panels[done..]);
                    let there = self.visibility.clip(first, done..done + run);
                    if !there.is_empty() {
                        let a = Matrix::rows(&self.scores[first * STEP + there.start * S::LANES..], STEP);
                        let from = panels[there.start].at * S::LANES * wide + column;
                        let b = [&values[from..], &values[from + S::LANES..]];
                        acc = strip::<S, ROWS>(s, a, there.len() * S::LANES, b, wide, acc);
                    }
                    done += run;
                }
                for (r, acc) in acc.into_iter().enumerate() {
                    let row = &mut state.sums[(first + r) * wide + column..];
                    s.store(row, acc[0]);
                    s.store(&mut row[S::LANES..], acc[1]);
                }
            }
        }
    }

    /// Accumulates a non-finite value into the rows that attend to it.
    #[inline(always)]
    fn add_non_finite<S: Lanes>(
        &self,
        s: S,
        tile: &Tile<'_>,
        state: &mut State<'_>,
        panels: &[Panel],
        at: usize,
        value: &[f32],
    ) {
        let Some(n) = panels.iter().position(|panel| panel.at == at / S::LANES) else { return };
        for r in (0..tile.rows).filter(|r| self.visibility.panels(*r).contains(&n)) {
            let p = self.scores[r * STEP + n * S::LANES + at % S::LANES];
            if p != 0.0 {
                let row = state.sums[r * state.wide..(r + 1) * state.wide].chunks_exact_mut(S::LANES);
                for (sum, value) in row.zip(value.chunks_exact(S::LANES)) {
                    s.store(sum, s.fma(s.splat(p), s.load(value), s.load(sum)));
                }
            }
        }
    }
}
