//! Forward: a task owns a range of queries of the heads that share keys.
//!
//! It takes the keys a `STEP` at a time, packs those that some query of its range visits, and lets every tile of queries catch up:
//! scores, their maximum so far, their exponentials, the weighted values. Milakov and Gimelshein 2018; Dao et al. 2022
//! (FlashAttention), algorithm 1.

use std::ops::Range;

use longreach_simd::product::{Matrix, Stored, strip};
use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes, math, split};
use ndarray::{Array3, Array4};

use super::super::Inputs;
use super::super::mask::{Entry, Pattern};
use super::{
    Call, Dims, HIDDEN, LOG2_E, Output, Panel, ROWS, STEP, Store, TILE, higher, pack_columns, pack_rows, pack_strips,
    panels, products, run,
};
use crate::Error;

/// Queries of a task, over all heads that share its keys: so many share the packing.
const RANGE: usize = 1024;

/// Attention of all queries over the keys that the pattern shows them.
///
/// O(visited pairs × (D + E)) time, memory for the inputs and outputs alone. Rows that see no key are zero, their log-sum-exp is −∞.
pub fn forward<T: Stored>(x: &Inputs<'_, T>, pattern: &dyn Pattern, cx: &Cx) -> Result<Output, Error> {
    let call = Call::new(x, pattern)?;
    let Dims { b, t, h, g, e, .. } = call.dims;
    let mut out = Array4::from_elem((b, t, h, e), f32::NAN);
    let mut lse = Array3::from_elem((b, t, h), f32::NAN);
    let heads = h / g;
    let block = call.mask.block().0;
    // Whole blocks of queries a task, enough tasks for every thread.
    let blocks = call.mask.rows();
    let enough = (b * g * blocks.len()).div_ceil(4 * cx.team.threads());
    let range = (RANGE / (heads * block).max(1)).min(enough).max(1);
    let mut tasks = Vec::new();
    let per_row = (out.as_slice_mut().unwrap_or_default(), lse.as_slice_mut().unwrap_or_default());
    let outs = per_row.0.chunks_mut((t * h * e).max(1));
    for (b, (out, lse)) in outs.zip(per_row.1.chunks_mut((t * h).max(1))).enumerate() {
        let parts = split::columns(out, h * e, heads * e).into_iter().zip(split::columns(lse, h, heads));
        for (g, (out, lse)) in parts.enumerate() {
            let (mut out, mut lse) = (out.into_iter(), lse.into_iter());
            for first in blocks.clone().step_by(range) {
                let blocks = first..(first + range).min(blocks.end);
                let queries = call.queries(blocks.start).start..call.queries(blocks.end - 1).end;
                let rows = queries.len();
                let (out, lse) = (out.by_ref().take(rows).collect(), lse.by_ref().take(rows).collect());
                tasks.push(Task { call: &call, b, g, blocks, first: queries.start, out, lse });
            }
        }
    }
    // The last queries of a causal mask have the most to do: they go first.
    tasks.reverse();
    cx.team.for_each(tasks, |task| cx.isa.run(task));
    Ok(Output { out, lse })
}

/// A range of queries of the heads of a group.
struct Task<'a, 'i, 'o, T> {
    call: &'a Call<'a, 'i, T>,
    b: usize,
    g: usize,
    /// Blocks of queries.
    blocks: Range<usize>,
    /// The first of the queries.
    first: usize,
    /// A query's `[heads, E]`.
    out: Vec<&'o mut [f32]>,
    /// A query's `[heads]`.
    lse: Vec<&'o mut [f32]>,
}

/// Queries of one head that lie in one block.
struct Tile<'a> {
    h: usize,
    first: usize,
    rows: usize,
    /// Where its rows begin in the task's scratch.
    at: usize,
    /// What it has still to visit.
    entries: &'a [Entry],
}

impl<T: Stored> Kernel for Task<'_, '_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let call = self.call;
        let Dims { s: keys, h, g, d, e, .. } = call.dims;
        let key_block = call.mask.block().1;
        let heads = h / g;
        let wide = e.next_multiple_of(2 * S::LANES);

        let mut tiles = Vec::new();
        let mut at = 0;
        for head in self.g * heads..(self.g + 1) * heads {
            for i in self.blocks.clone() {
                let entries = call.mask.row(self.b, head, i);
                let queries = call.queries(i);
                for first in queries.clone().step_by(TILE) {
                    let rows = TILE.min(queries.end - first);
                    tiles.push(Tile { h: head, first, rows, at, entries });
                    at += rows.next_multiple_of(ROWS);
                }
            }
        }
        let rows = at;
        let scratch = &mut Scratch::new(rows * (d + wide + 2) + STEP * (d + wide) + TILE * (STEP + S::LANES + 2));
        let (q, rest) = scratch.split_at_mut(rows * d);
        let (sums, rest) = rest.split_at_mut(rows * wide);
        let (highest, rest) = rest.split_at_mut(rows);
        let (total, rest) = rest.split_at_mut(rows);
        let (packed_k, rest) = rest.split_at_mut(STEP * d);
        let (packed_v, rest) = rest.split_at_mut(STEP * wide);
        let mut work = Work::new(rest, S::LANES);
        sums.fill(0.0);
        highest.fill(HIDDEN);
        total.fill(0.0);
        for tile in &tiles {
            let strips = &mut q[tile.at * d..(tile.at + tile.rows.next_multiple_of(ROWS)) * d];
            pack_strips(&call.q, self.b, tile.h, tile.first..tile.first + tile.rows, call.factor(), strips);
        }

        let mut visited = Vec::with_capacity(STEP / S::LANES);
        let mut odd = Vec::new();
        while let Some(next) = tiles.iter().filter_map(|tile| tile.entries.first()).map(|entry| entry.keys).min() {
            let start = next as usize * key_block / STEP * STEP;
            let mut packed = [false; STEP];
            odd.clear();
            for tile in &mut tiles {
                visited.clear();
                tile.entries = panels::<S>(tile.entries, key_block, keys, start, &mut visited);
                if visited.is_empty() {
                    continue;
                }
                for panel in &visited {
                    if !std::mem::replace(&mut packed[panel.at], true) {
                        let first = start + panel.at * S::LANES;
                        let there = first..(first + S::LANES).min(keys);
                        let at = panel.at * S::LANES;
                        pack_columns(
                            s,
                            &call.k,
                            self.b,
                            self.g,
                            there.clone(),
                            &mut packed_k[at * d..][..S::LANES * d],
                        );
                        let values = &mut packed_v[at * wide..][..S::LANES * wide];
                        pack_rows(s, &call.v, self.b, self.g, there, wide, values);
                        if !finite(s, values) {
                            set_aside(values, wide, at, &mut odd);
                        }
                    }
                }
                let mut state = State {
                    q: &q[tile.at * d..],
                    sums: &mut sums[tile.at * wide..],
                    highest: &mut highest[tile.at..],
                    total: &mut total[tile.at..],
                    wide,
                };
                products(s, tile.rows, state.q, &visited, packed_k, d, Store(work.scores));
                if !call.untouched(&visited) {
                    for r in 0..tile.rows {
                        let row = work.scores[r * STEP..(r + 1) * STEP].chunks_exact_mut(S::LANES);
                        for (panel, part) in visited.iter().zip(row) {
                            let first = start + panel.at * S::LANES;
                            call.adjust(s, self.b, tile.h, tile.first + r, first, *panel, part, None);
                        }
                    }
                }
                work.exponentials(s, tile, &mut state, &visited);
                work.values(s, tile, &mut state, &visited, packed_v);
                for (at, value) in &odd {
                    work.odd_value(s, tile, &mut state, &visited, *at, value);
                }
            }
        }

        for tile in &tiles {
            let head = tile.h - self.g * heads;
            for r in 0..tile.rows {
                let row = tile.first + r - self.first;
                let (mut high, mut sum) = (highest[tile.at + r], total[tile.at + r]);
                let mut keep = 1.0;
                if let Some(sinks) = &call.x.sinks {
                    let sink = sinks[tile.h] * LOG2_E;
                    let top = high.max(sink);
                    keep = (high - top).exp2();
                    sum = sum * keep + (sink - top).exp2();
                    high = top;
                }
                let scale = if sum == 0.0 { 0.0 } else { keep / sum };
                let from = &sums[(tile.at + r) * wide..(tile.at + r) * wide + e];
                math::scale_into(s, scale, from, &mut self.out[row][head * e..(head + 1) * e]);
                self.lse[row][head] = if sum == 0.0 { f32::NEG_INFINITY } else { high / LOG2_E + sum.ln() };
            }
        }
    }
}

/// Whether all numbers are.
#[inline(always)]
fn finite<S: Lanes>(s: S, x: &[f32]) -> bool {
    let zero = s.splat(0.0);
    let mut sum = zero;
    for part in x.chunks_exact(S::LANES) {
        sum = s.fma(s.load(part), zero, sum);
    }
    s.sum(sum) == 0.0
}

/// Values that are not finite: zero times them would spoil the rows that do not see them. They leave the panel for a list of their own,
/// with their place in the step.
fn set_aside(values: &mut [f32], wide: usize, at: usize, odd: &mut Vec<(usize, Vec<f32>)>) {
    for (i, row) in values.chunks_exact_mut(wide).enumerate() {
        if row.iter().any(|x| !x.is_finite()) {
            odd.push((at + i, row.to_vec()));
            row.fill(0.0);
        }
    }
}

/// What is known of a tile's rows so far.
struct State<'a> {
    /// Strips of `[D, ROWS]`.
    q: &'a [f32],
    /// The weighted values, `[rows, wide]`.
    sums: &'a mut [f32],
    /// The highest score, in powers of two.
    highest: &'a mut [f32],
    /// The sum of exponentials.
    total: &'a mut [f32],
    wide: usize,
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
}

impl<'a> Work<'a> {
    #[inline(always)]
    fn new(memory: &'a mut [f32], lanes: usize) -> Self {
        let (scores, rest) = memory.split_at_mut(TILE * STEP);
        let (lanes, rest) = rest.split_at_mut(TILE * lanes);
        let (base, shrink) = rest.split_at_mut(TILE);
        Self { scores, lanes, base, shrink }
    }

    /// Scores become exponentials; the highest score and the sum of exponentials move on.
    #[inline(always)]
    fn exponentials<S: Lanes>(&mut self, s: S, tile: &Tile<'_>, state: &mut State<'_>, panels: &[Panel]) {
        let width = panels.len() * S::LANES;
        for r in 0..tile.rows {
            let mut high = s.splat(HIDDEN);
            for part in self.scores[r * STEP..r * STEP + width].chunks_exact(S::LANES) {
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
            for part in self.scores[r * STEP..r * STEP + width].chunks_exact_mut(S::LANES) {
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
                    let a = Matrix::rows(&self.scores[first * STEP + done * S::LANES..], STEP);
                    let from = panels[done].at * S::LANES * wide + column;
                    let b = [&values[from..], &values[from + S::LANES..]];
                    acc = strip::<S, ROWS>(s, a, run * S::LANES, b, wide, acc);
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
        for r in 0..tile.rows {
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
