//! A task: a range of queries of the heads that share keys, tile by tile or step by step.

use std::ops::Range;

use longreach_simd::split::Part;
use longreach_simd::team::Scratch;
use longreach_simd::{Kernel, Lanes, math};

use super::super::super::mask::Entry;
use super::super::{Call, Dims, LOG2_E, STEP, TILE, push_panels};
use super::online_softmax::{State, Work};
use super::packed::{PackCache, Packed};

/// A range of queries of the heads of a group.
pub(super) struct Task<'a, 'o> {
    pub(super) call: &'a Call<'a>,
    pub(super) b: usize,
    pub(super) g: usize,
    /// The query blocks.
    pub(super) blocks: Range<usize>,
    /// Whether all keys that a tile visits fit in cache; otherwise keys are packed step by step.
    pub(super) fits_in_cache: bool,
    /// The first query.
    pub(super) first: usize,
    /// `[queries, heads, E]`
    pub(super) out: Part<'o>,
    /// `[queries, heads]`
    pub(super) lse: Part<'o>,
}

/// Queries of one head and one query block.
pub(super) struct Tile<'a> {
    pub(super) h: usize,
    pub(super) first: usize,
    pub(super) rows: usize,
    /// The entries that it has not processed yet.
    pub(super) entries: &'a [Entry],
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
