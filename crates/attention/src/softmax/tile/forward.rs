//! Forward: a task owns a range of queries of the heads that share keys.
//!
//! Where few keys are visited they are packed as they are met, and each tile of queries takes its own in turn, a `STEP` of them at a time,
//! wherever they lie; a block that was not met for long makes way. Where they are many the keys come a `STEP` at a time, those that some query visits are packed, and every tile
//! catches up. Either way: scores, their maximum so far, their exponentials, the weighted values. Milakov and Gimelshein 2018;
//! Dao et al. 2022 (FlashAttention), algorithm 1.

use std::ops::Range;

use longreach_simd::product::{Matrix, Stored, strip};
use longreach_simd::split::Part;
use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::Array3;

use super::super::mask::{Entry, Pattern};
use super::super::{Inputs, apart};
use super::{
    Call, Dims, HIDDEN, LOG2_E, Output, Panel, ROWS, STEP, Sight, Store, TILE, finite, higher, pack_columns, pack_rows,
    products, push_panels, run, scattered, zeros,
};
use crate::Error;

/// Queries of a task, over all heads that share its keys: so many share the packing.
const RANGE: usize = 1024;
/// The same where keys are packed as they are met, and then only those at the seams twice.
const NEAR_RANGE: usize = 1024;
/// Bytes of packed keys and values that stay near.
const PACKED: usize = 3 << 18;

/// Attention of all queries over the keys that the pattern shows them.
///
/// O(visited pairs × (D + E)) time, memory for the inputs and outputs alone. Rows that see no key are zero, their log-sum-exp is −∞.
pub fn forward<T: Stored>(x: &Inputs<'_, T>, pattern: &dyn Pattern, cx: &Cx) -> Result<Output, Error> {
    if apart::wanted(x, pattern)? {
        return apart::forward(pattern.name(), x, |x| forward(x, pattern, cx));
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
            for (blocks, near) in ranges(&call, b, g, cx.team.threads()) {
                let first = call.queries(blocks.start).start;
                let rows = call.queries(blocks.end - 1).end - first;
                let (out, lse) = (out.take(rows), lse.take(rows));
                tasks.push(Task { call: &call, b, g, blocks, near, first, out, lse });
            }
        }
    }
    // The last queries of a causal mask have the most to do: they go first.
    tasks.reverse();
    cx.team.for_each(tasks, |task| cx.isa.run(task));
    Ok(Output { out, lse })
}

/// The blocks of queries of a group in ranges, each with whether all the keys that one of them visits are near when it is its turn: there is room for
/// so many. Enough ranges for every thread.
fn ranges<T>(call: &Call<'_, '_, T>, b: usize, g: usize, threads: usize) -> Vec<(Range<usize>, bool)> {
    let Dims { b: batch, h, g: groups, .. } = call.dims;
    let heads = g * (h / groups)..(g + 1) * (h / groups);
    let most = room(call);
    let all = call.mask.rows();
    let enough = (batch * groups * all.len()).div_ceil(4 * threads);
    let longest = |near: bool| {
        let range = if near { NEAR_RANGE } else { RANGE };
        (range / (heads.len() * call.mask.block().0).max(1)).min(enough).max(1)
    };
    let mut ranges: Vec<(Range<usize>, bool)> = Vec::new();
    for i in all {
        let near = heads.clone().all(|h| call.mask.row(b, h, i).len() <= most);
        match ranges.last_mut() {
            Some((last, same)) if *same == near && last.len() < longest(near) => last.end = i + 1,
            _ => ranges.push((i..i + 1, near)),
        }
    }
    ranges
}

/// How many blocks of packed keys and values stay near.
fn room<T>(call: &Call<'_, '_, T>) -> usize {
    let Dims { d, e, .. } = call.dims;
    (PACKED / (4 * (d + e) * call.mask.block().1)).max(1)
}

/// A range of queries of the heads of a group.
struct Task<'a, 'i, 'o, T> {
    call: &'a Call<'a, 'i, T>,
    b: usize,
    g: usize,
    /// Blocks of queries.
    blocks: Range<usize>,
    /// Whether there is room for all keys that a tile visits; without, keys are packed a step at a time.
    near: bool,
    /// The first of the queries.
    first: usize,
    /// A query's `[heads, E]`.
    out: Part<'o>,
    /// A query's `[heads]`.
    lse: Part<'o>,
}

/// Queries of one head that lie in one block.
struct Tile<'a> {
    h: usize,
    first: usize,
    rows: usize,
    /// What it has still to visit.
    entries: &'a [Entry],
}

impl<T: Stored> Kernel for Task<'_, '_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        if self.near { self.packed_when_met(s) } else { self.packed_in_steps(s) }
    }
}

impl<'a, T: Stored> Task<'a, '_, '_, T> {
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

    /// Tile by tile: the keys that one brings along stay for the next, as long as there is room.
    #[inline(always)]
    fn packed_when_met<S: Lanes>(&mut self, s: S) {
        let call = self.call;
        let Dims { d, e, s: all, .. } = call.dims;
        let block = call.mask.block().1;
        let wide = e.next_multiple_of(2 * S::LANES);
        let tiles = self.tiles();
        // No more than a tile needs: what is packed is to stay in the cache.
        let room = tiles.iter().map(|tile| tile.entries.len()).max().unwrap_or(0);
        let (of_state, of_keys) = (State::size(d, wide), room * block * (d + wide));
        let scratch = &mut Scratch::new(of_state + of_keys + Work::size(S::LANES));
        let (state, rest) = scratch.split_at_mut(of_state);
        let (packed, rest) = rest.split_at_mut(of_keys);
        let mut packed = Packed::new(packed, d, wide);
        let mut work = Work::new(rest, S::LANES);
        let mut near = Near::new(room, all.div_ceil(block));
        let mut done = vec![false; room * block / S::LANES];
        let mut visited = Vec::new();
        for tile in tiles {
            visited.clear();
            near.turn(tile.entries);
            for entry in tile.entries {
                let (place, new) = near.place(entry.keys);
                push_panels::<S>(*entry, block, all, place * block / S::LANES, &mut visited);
                if new {
                    packed.forget(place * block..(place + 1) * block);
                    done[place * block / S::LANES..(place + 1) * block / S::LANES].fill(false);
                }
            }
            work.sight.look(call, (self.b, tile.h, tile.first), tile.rows, &mut visited, S::LANES);
            for panel in &visited {
                if !std::mem::replace(&mut done[panel.at], true) {
                    packed.pack(s, call, self.b, self.g, *panel);
                }
            }
            let mut state = State::new(state, d, wide);
            state.start(s, call, self.b, &tile);
            // Steps of equal size.
            let steps = visited.len().div_ceil(STEP / S::LANES).max(1);
            for panels in visited.chunks(visited.len().div_ceil(steps).next_multiple_of(2).max(2)) {
                work.step(s, call, self.b, &tile, &mut state, panels, &packed);
            }
            self.finish(s, &tile, &state);
        }
    }

    /// A step of the keys at a time, for all tiles.
    #[inline(always)]
    fn packed_in_steps<S: Lanes>(&mut self, s: S) {
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
        // The next blocks that some tile visits, wherever they lie.
        let (many, mut blocks) = (STEP / block, Vec::new());
        loop {
            blocks.clear();
            blocks.extend(tiles.iter().flat_map(|tile| tile.entries.iter().take(many)).map(|entry| entry.keys));
            blocks.sort_unstable();
            blocks.dedup();
            blocks.truncate(many);
            let Some(&last) = blocks.last() else { break };
            let mut done = [false; STEP];
            packed.odd.clear();
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
                work.sight.look(call, (self.b, tile.h, tile.first), tile.rows, &mut visited, S::LANES);
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

    /// Writes what a tile has come to.
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

/// Which blocks of keys are packed, and where.
struct Near {
    /// The block in each place, and the turn that last held it.
    places: Vec<(u32, usize)>,
    /// Where each block is, if it is.
    of: Vec<Option<u32>>,
    turn: usize,
}

impl Near {
    fn new(room: usize, blocks: usize) -> Self {
        Self { places: vec![(u32::MAX, 0); room], of: vec![None; blocks], turn: 0 }
    }

    /// The next tile's turn: what it needs and is there must not make way for what is not.
    fn turn(&mut self, entries: &[Entry]) {
        self.turn += 1;
        for entry in entries {
            if let Some(place) = self.of[entry.keys as usize] {
                self.places[place as usize].1 = self.turn;
            }
        }
    }

    /// Where a block is, and whether it still has to be packed there, in the place of the one that was needed longest ago.
    fn place(&mut self, block: u32) -> (usize, bool) {
        if let Some(place) = self.of[block as usize] {
            return (place as usize, false);
        }
        let oldest = (0..self.places.len()).min_by_key(|n| self.places[*n].1).unwrap_or(0);
        if let Some(there) = self.of.get_mut(self.places[oldest].0 as usize) {
            *there = None;
        }
        self.places[oldest] = (block, self.turn);
        self.of[block as usize] = Some(oldest as u32);
        (oldest, true)
    }
}

/// Packed keys and values, a vector's worth a place.
struct Packed<'a> {
    /// `[D, LANES]` each.
    k: &'a mut [f32],
    /// `[LANES, wide]` each.
    v: &'a mut [f32],
    d: usize,
    wide: usize,
    /// Values that are not finite, with the places of their keys: zero times them would spoil the rows that do not see them.
    odd: Vec<(usize, Vec<f32>)>,
}

impl<'a> Packed<'a> {
    fn new(memory: &'a mut [f32], d: usize, wide: usize) -> Self {
        let (k, v) = memory.split_at_mut(memory.len() / (d + wide) * d);
        Self { k, v, d, wide, odd: Vec::new() }
    }

    /// What was packed in these places is given up.
    fn forget(&mut self, places: Range<usize>) {
        self.odd.retain(|(at, _)| !places.contains(at));
    }

    #[inline(always)]
    fn pack<S: Lanes, T: Stored>(&mut self, s: S, call: &Call<'_, '_, T>, b: usize, g: usize, panel: Panel) {
        let (d, wide, at) = (self.d, self.wide, panel.at * S::LANES);
        let there = panel.key..(panel.key + S::LANES).min(call.dims.s);
        pack_columns(s, &call.k, b, g, there.clone(), &mut self.k[at * d..][..S::LANES * d]);
        let values = &mut self.v[at * wide..][..S::LANES * wide];
        pack_rows(s, &call.v, b, g, there, wide, values);
        if !finite(s, values) {
            for (i, row) in values.chunks_exact_mut(wide).enumerate() {
                if row.iter().any(|x| !x.is_finite()) {
                    self.odd.push((at + i, row.to_vec()));
                    row.fill(0.0);
                }
            }
        }
    }
}

/// What is known of a tile's rows so far.
struct State<'a> {
    /// Times the factor, `[TILE, D]`.
    q: &'a mut [f32],
    /// The weighted values, `[TILE, wide]`.
    sums: &'a mut [f32],
    /// The highest score, in powers of two.
    highest: &'a mut [f32],
    /// The sum of exponentials.
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

    /// Nothing is known yet.
    #[inline(always)]
    fn start<S: Lanes, T: Stored>(&mut self, s: S, call: &Call<'_, '_, T>, b: usize, tile: &Tile<'_>) {
        self.sums.fill(0.0);
        self.highest.fill(HIDDEN);
        self.total.fill(0.0);
        pack_rows(s, &call.q, b, tile.h, tile.first..tile.first + tile.rows, self.d, self.q);
    }
}

/// The scores of a tile over a step, and what their softmax needs.
struct Work<'a> {
    /// `[TILE, STEP]`, the panels visited one behind the other.
    scores: &'a mut [f32],
    /// A vector a row, to be reduced.
    lanes: &'a mut [f32],
    /// What the scores are measured from, a row.
    base: &'a mut [f32],
    /// What the sums so far are to be multiplied with, a row.
    shrink: &'a mut [f32],
    sight: Sight,
}

impl<'a> Work<'a> {
    fn size(lanes: usize) -> usize {
        TILE * (STEP + lanes + 2)
    }

    #[inline(always)]
    fn new(memory: &'a mut [f32], lanes: usize) -> Self {
        let (scores, rest) = memory.split_at_mut(TILE * STEP);
        let (lanes, rest) = rest.split_at_mut(TILE * lanes);
        let (base, shrink) = rest.split_at_mut(TILE);
        Self { scores, lanes, base, shrink, sight: Sight::new() }
    }

    /// A tile meets up to a step of packed keys.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "a tile, and what it meets")]
    fn step<S: Lanes, T: Stored>(
        &mut self,
        s: S,
        call: &Call<'_, '_, T>,
        b: usize,
        tile: &Tile<'_>,
        state: &mut State<'_>,
        panels: &[Panel],
        packed: &Packed<'_>,
    ) {
        let d = state.d;
        self.sight.step(tile.rows, panels, S::LANES);
        let scaled = Store(self.scores, call.factor());
        products(s, (tile.rows, d), state.q, panels, &self.sight, packed.k, d, scaled);
        for (n, panel) in panels.iter().enumerate().filter(|(_, panel)| call.changes(panel)) {
            for r in (0..tile.rows).filter(|r| self.sight.panels(*r).contains(&n)) {
                let part = &mut self.scores[r * STEP + n * S::LANES..][..S::LANES];
                let seen = if panel.cut { self.sight.bits(panel, r) } else { u32::MAX };
                call.adjust(s, (b, tile.h, tile.first + r), *panel, seen, part, None);
            }
        }
        self.exponentials(s, tile, state);
        self.values(s, tile, state, panels, packed.v);
        for (at, value) in &packed.odd {
            self.odd_value(s, tile, state, panels, *at, value);
        }
    }

    /// Scores become exponentials; the highest score and the sum of exponentials move on.
    #[inline(always)]
    fn exponentials<S: Lanes>(&mut self, s: S, tile: &Tile<'_>, state: &mut State<'_>) {
        for r in 0..tile.rows {
            let mut high = s.splat(HIDDEN);
            let there = self.sight.panels(r);
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
            self.shrink[r] = state.highest[r] - self.base[r];
            state.highest[r] = high;
        }
        for part in self.shrink[..tile.rows].chunks_mut(S::LANES) {
            let e = math::exp2(s, s.load_part(part));
            s.store_part(part, e);
        }
        for r in 0..tile.rows {
            let base = s.splat(self.base[r]);
            let mut sum = s.splat(0.0);
            let there = self.sight.panels(r);
            let there = r * STEP + there.start.min(there.end) * S::LANES..r * STEP + there.end * S::LANES;
            for part in self.scores[there].chunks_exact_mut(S::LANES) {
                let p = math::exp2(s, s.sub(s.load(part), base));
                s.store(part, p);
                sum = s.add(sum, p);
            }
            state.total[r] = state.total[r] * self.shrink[r] + s.sum(sum);
        }
    }

    /// The values, weighted.
    #[inline(always)]
    fn values<S: Lanes>(&mut self, s: S, tile: &Tile<'_>, state: &mut State<'_>, panels: &[Panel], values: &[f32]) {
        let wide = state.wide;
        self.shrink[tile.rows..].fill(0.0);
        for column in (0..wide).step_by(2 * S::LANES) {
            for first in (0..tile.rows).step_by(ROWS) {
                let mut acc = [[s.splat(0.0); 2]; ROWS];
                for (r, acc) in acc.iter_mut().enumerate() {
                    let shrink = s.splat(self.shrink[first + r]);
                    let row = &state.sums[(first + r) * wide + column..];
                    *acc = [s.mul(shrink, s.load(row)), s.mul(shrink, s.load(&row[S::LANES..]))];
                }
                // Panels that follow one another are one run of keys.
                let mut done = 0;
                while done < panels.len() {
                    let run = run(&panels[done..]);
                    let there = self.sight.clip(first, done..done + run);
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

    /// A value that was set aside, for the rows that see it.
    #[inline(always)]
    fn odd_value<S: Lanes>(
        &self,
        s: S,
        tile: &Tile<'_>,
        state: &mut State<'_>,
        panels: &[Panel],
        at: usize,
        value: &[f32],
    ) {
        let Some(n) = panels.iter().position(|panel| panel.at == at / S::LANES) else { return };
        for r in (0..tile.rows).filter(|r| self.sight.panels(*r).contains(&n)) {
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
