//! One task of the backward pass: its part of the keys, a range at a time, against the tiles of queries that visit them.

use std::ops::Range;

use longreach_simd::product::{Matrix, strip};
use longreach_simd::team::Scratch;
use longreach_simd::{Kernel, Lanes, math};

use super::super::super::mask::Entry;
use super::super::{
    Dims, Epilogue, LOG2_E, Panel, ROWS, STEP, ScaledStore, TILE, Visibility, pack_columns, pack_rows, products,
    push_panels, run,
};
use super::{RANGE, Shared, Task, excluded, zero_non_finite_columns, zero_non_finite_rows};

/// A tile of queries: packed operands, softmax statistics, and the gradient of its queries.
struct Tile<'a> {
    rows: usize,
    /// `[TILE, wide D]`
    q: &'a mut [f32],
    /// `[TILE, wide E]`
    dout: &'a mut [f32],
    dq: &'a mut [f32],
    /// The log-sum-exp in base 2.
    base: &'a mut [f32],
    delta: &'a mut [f32],
    /// `P`, `dS` and the slope of the soft-cap, `[TILE, STEP]` each.
    p: &'a mut [f32],
    ds: &'a mut [f32],
    slope: &'a mut [f32],
}

/// A range of keys: packed operands and gradients.
struct Keys<'a> {
    /// Panels of `[D, LANES]`.
    k: &'a mut [f32],
    /// Panels of `[E, LANES]`.
    v: &'a mut [f32],
    /// `[RANGE, wide D]`
    k_rows: &'a mut [f32],
    dk: &'a mut [f32],
    /// `[RANGE, wide E]`
    dv: &'a mut [f32],
}

/// Splits `n` numbers off the front of a scratch buffer.
#[inline(always)]
fn split_front<'a>(memory: &mut &'a mut [f32], n: usize) -> &'a mut [f32] {
    let (front, rest) = std::mem::take(memory).split_at_mut(n);
    *memory = rest;
    front
}

impl Kernel for Task<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        if self.work.call.pattern.scattered() { self.scattered(s) } else { self.in_blocks(s) }
    }
}

impl Task<'_, '_> {
    #[inline(always)]
    fn in_blocks<S: Lanes>(mut self, s: S) {
        let Shared { call, dout, delta, lse, columns } = self.work;
        let Dims { s: all, h, g, d, e, .. } = call.dims;
        let block = call.mask.block().1;
        let (wide_d, wide_e) = (d.next_multiple_of(2 * S::LANES), e.next_multiple_of(2 * S::LANES));
        let group = self.h / (h / g);
        let capped = if call.x.softcap.is_some() { TILE * STEP } else { 0 };
        // The last strip of rows may extend past the keys.
        let range = RANGE + ROWS;
        let of_tile = TILE * (2 * wide_d + wide_e + 2 + 2 * STEP) + capped;
        let scratch = &mut Scratch::new(of_tile + RANGE * (d + e + wide_d) + range * (wide_d + wide_e));
        let memory = &mut &mut scratch[..];
        let mut tile = Tile {
            rows: 0,
            q: split_front(memory, TILE * wide_d),
            dout: split_front(memory, TILE * wide_e),
            dq: split_front(memory, TILE * wide_d),
            base: split_front(memory, TILE),
            delta: split_front(memory, TILE),
            p: split_front(memory, TILE * STEP),
            ds: split_front(memory, TILE * STEP),
            slope: split_front(memory, capped),
        };
        let keys = Keys {
            k: split_front(memory, RANGE * d),
            v: split_front(memory, RANGE * e),
            k_rows: split_front(memory, RANGE * wide_d),
            dk: split_front(memory, range * wide_d),
            dv: split_front(memory, range * wide_e),
        };
        let columns = &columns[self.b % columns.len()];
        let columns = &columns[self.h % columns.len()];
        let mut visited = Vec::with_capacity(STEP / S::LANES);
        let mut visibility = Visibility::new();
        for first in self.keys.clone().step_by(RANGE) {
            let last = (first + RANGE).min(self.keys.end);
            keys.dk.fill(0.0);
            keys.dv.fill(0.0);
            let mut packed = [false; RANGE];
            for i in columns.of(first / RANGE).iter().map(|i| call.mask.rows().start + *i as usize) {
                let row = call.mask.row(self.b, self.h, i);
                let from = row.partition_point(|entry| (entry.keys as usize) * block < first);
                // The first visit to these queries in this part writes their gradient; later ones accumulate.
                let new = row[..from].last().is_none_or(|entry| (entry.keys as usize) * block < self.keys.start);
                let row = &row[from..];
                let queries = call.queries(i);
                for t in queries.clone().step_by(TILE) {
                    let there = t..(t + TILE).min(queries.end);
                    tile.rows = there.len();
                    pack_rows(s, &call.q, self.b, self.h, there.clone(), wide_d, &mut tile.q[..there.len() * wide_d]);
                    pack_rows(s, dout, self.b, self.h, there.clone(), wide_e, &mut tile.dout[..there.len() * wide_e]);
                    tile.dq.fill(0.0);
                    tile.delta.fill(0.0);
                    for (r, t) in there.clone().enumerate() {
                        let (lse, delta) = (lse[[self.b, t, self.h]], delta[[self.b, t, self.h]]);
                        (tile.base[r], tile.delta[r]) = (lse * LOG2_E, delta);
                        if excluded(lse, delta) {
                            (tile.base[r], tile.delta[r]) = (f32::INFINITY, 0.0);
                            tile.q[r * wide_d..(r + 1) * wide_d].fill(0.0);
                            tile.dout[r * wide_e..(r + 1) * wide_e].fill(0.0);
                        }
                    }
                    let mut row: &[Entry] = row;
                    for start in (first..last).step_by(STEP) {
                        visited.clear();
                        while let [entry, rest @ ..] = row
                            && (entry.keys as usize) * block < start + STEP
                        {
                            let at = (entry.keys as usize * block - first) / S::LANES;
                            push_panels::<S>(*entry, block, all, at, &mut visited);
                            row = rest;
                        }
                        visibility.evaluate(call, (self.b, self.h, t), tile.rows, &mut visited, S::LANES);
                        if visited.is_empty() {
                            continue;
                        }
                        for panel in &visited {
                            let at = panel.at * S::LANES;
                            if !std::mem::replace(&mut packed[at], true) {
                                let there = first + at..(first + at + S::LANES).min(all);
                                pack_columns(
                                    s,
                                    &call.k,
                                    self.b,
                                    group,
                                    there.clone(),
                                    &mut keys.k[at * d..][..S::LANES * d],
                                );
                                pack_columns(
                                    s,
                                    &call.v,
                                    self.b,
                                    group,
                                    there.clone(),
                                    &mut keys.v[at * e..][..S::LANES * e],
                                );
                                let rows = &mut keys.k_rows[at * wide_d..][..S::LANES * wide_d];
                                pack_rows(s, &call.k, self.b, group, there, wide_d, rows);
                                zero_non_finite_columns(s, &mut keys.k[at * d..][..S::LANES * d]);
                                zero_non_finite_columns(s, &mut keys.v[at * e..][..S::LANES * e]);
                                zero_non_finite_rows(s, rows, wide_d);
                            }
                        }
                        visibility.step(tile.rows, &visited, S::LANES);
                        let scaled = ScaledStore(tile.p, call.factor());
                        products(s, (tile.rows, wide_d), tile.q, &visited, &visibility, keys.k, d, scaled);
                        self.exponentials(s, &mut tile, t, &visited, &visibility);
                        let slopes = Slopes { p: tile.p, delta: tile.delta, ds: tile.ds };
                        products(s, (tile.rows, wide_e), tile.dout, &visited, &visibility, keys.v, e, slopes);
                        self.bias_and_softcap(s, &mut tile, t, &visited);
                        let mut done = 0;
                        while done < visited.len() {
                            let run = run(&visited[done..]);
                            let at = visited[done].at * S::LANES;
                            let of_keys = (&visited[..], &visibility, done..done + run);
                            accumulate_keys(
                                s,
                                tile.rows,
                                of_keys.clone(),
                                tile.p,
                                tile.dout,
                                wide_e,
                                &mut keys.dv[at * wide_e..],
                            );
                            accumulate_keys(
                                s,
                                tile.rows,
                                of_keys.clone(),
                                tile.ds,
                                tile.q,
                                wide_d,
                                &mut keys.dk[at * wide_d..],
                            );
                            accumulate_queries(s, tile.rows, of_keys, tile.ds, keys.k_rows, wide_d, tile.dq);
                            done += run;
                        }
                    }
                    for (r, t) in there.enumerate() {
                        let dq = &tile.dq[r * wide_d..][..d];
                        if new {
                            math::scale_into(s, call.x.scale, dq, self.dq.row(t));
                        } else {
                            add_scaled(s, call.x.scale, dq, self.dq.row(t));
                        }
                    }
                }
            }
            for j in first..last {
                let (at, place) = (j - first, j - self.keys.start);
                math::scale_into(s, call.x.scale, &keys.dk[at * wide_d..][..d], self.dk.row(place));
                math::scale_into(s, 1.0, &keys.dv[at * wide_e..][..e], self.dv.row(place));
            }
        }
    }
}

impl Task<'_, '_> {
    /// Turns products into `P`, with zeros in `P` and `dS` for masked pairs.
    #[inline(always)]
    fn exponentials<S: Lanes>(&self, s: S, tile: &mut Tile<'_>, t: usize, panels: &[Panel], visibility: &Visibility) {
        let call = &self.work.call;
        for r in 0..tile.rows {
            let base = s.splat(tile.base[r]);
            let there = visibility.panels(r);
            for (n, panel) in panels.iter().enumerate() {
                let at = r * STEP + n * S::LANES;
                if !there.contains(&n) || tile.base[r] == f32::INFINITY {
                    s.store(&mut tile.p[at..], s.splat(0.0));
                    s.store(&mut tile.ds[at..], s.splat(0.0));
                    if let Some(slope) = tile.slope.get_mut(at..at + S::LANES) {
                        slope.fill(0.0);
                    }
                    continue;
                }
                let part = &mut tile.p[at..][..S::LANES];
                if call.changes(panel) {
                    let slope = tile.slope.get_mut(at..);
                    let seen = if panel.cut { visibility.bits(panel, r) } else { u32::MAX };
                    call.adjust(s, (self.b, self.h, t + r), *panel, seen, part, slope);
                }
                // A probability is at most 1, whatever rounding does to large scores.
                s.store(part, math::exp2_at_most(s, 0.0, s.sub(s.load(part), base)));
            }
        }
    }

    /// Stores the gradient of the bias, and applies the slope of the soft-cap.
    #[inline(always)]
    fn bias_and_softcap<S: Lanes>(&mut self, s: S, tile: &mut Tile<'_>, t: usize, panels: &[Panel]) {
        let keys = self.work.call.dims.s;
        for r in 0..tile.rows {
            for (n, panel) in panels.iter().enumerate() {
                let at = r * STEP + n * S::LANES;
                if !self.bias.is_empty() {
                    let there = panel.key..(panel.key + S::LANES).min(keys);
                    let row = &mut self.bias[(t + r) * keys..(t + r + 1) * keys];
                    s.store_part(&mut row[there], s.load(&tile.ds[at..]));
                }
                if !tile.slope.is_empty() {
                    let ds = s.mul(s.load(&tile.ds[at..]), s.load(&tile.slope[at..]));
                    s.store(&mut tile.ds[at..], ds);
                }
            }
        }
    }
}

/// `dS = P ⊙ (dP − δ)`.
struct Slopes<'a> {
    p: &'a [f32],
    delta: &'a [f32],
    ds: &'a mut [f32],
}

impl<S: Lanes> Epilogue<S> for Slopes<'_> {
    #[inline(always)]
    fn apply(&mut self, s: S, r: usize, at: usize, product: S::V) {
        let ds = s.mul(s.load(&self.p[at..]), s.sub(product, s.splat(self.delta[r])));
        s.store(&mut self.ds[at..], ds);
    }
}

/// Contiguous panels of a step, and their mask.
type Of<'a> = (&'a [Panel], &'a Visibility, Range<usize>);

/// `out[j] += Σ_r a[r, j] b[r]` for the keys of some panels of `a: [rows, STEP]` and `b: [rows, wide]`.
#[inline(always)]
fn accumulate_keys<S: Lanes>(s: S, rows: usize, of: Of<'_>, a: &[f32], b: &[f32], wide: usize, out: &mut [f32]) {
    let (_, visibility, panels) = of;
    for column in (0..wide).step_by(2 * S::LANES) {
        for j in (0..panels.len() * S::LANES).step_by(ROWS) {
            // The rows from the first strip that attends to some of these keys to the last.
            let keys = panels.start + j / S::LANES..panels.start + (j + ROWS - 1) / S::LANES + 1;
            let (mut first, mut end) = (rows, 0);
            for r in (0..rows).step_by(ROWS) {
                if !visibility.clip(r, keys.clone()).is_empty() {
                    (first, end) = (first.min(r), (r + ROWS).min(rows));
                }
            }
            if first < end {
                let a = Matrix { data: &a[first * STEP + panels.start * S::LANES + j..], row: 1, col: STEP };
                let b = [&b[first * wide + column..], &b[first * wide + column + S::LANES..]];
                let out = &mut out[j * wide + column..];
                // With fewer lanes than rows of a strip, a run may end in the middle of one: what follows is another run.
                if S::LANES < ROWS && panels.len() * S::LANES < j + ROWS {
                    accumulate::<S, { ROWS / 2 }>(s, a, end - first, b, wide, out);
                } else {
                    accumulate::<S, ROWS>(s, a, end - first, b, wide, out);
                }
            }
        }
    }
}

/// `out[r] += Σ_j a[r, j] b[j]` for the keys of some panels of `a: [rows, STEP]` and `b: [.., wide]`.
#[inline(always)]
fn accumulate_queries<S: Lanes>(s: S, rows: usize, of: Of<'_>, a: &[f32], b: &[f32], wide: usize, out: &mut [f32]) {
    let (visited, visibility, panels) = of;
    for column in (0..wide).step_by(2 * S::LANES) {
        for r in (0..rows).step_by(ROWS) {
            let there = visibility.clip(r, panels.clone());
            if !there.is_empty() {
                let a = Matrix::rows(&a[r * STEP + there.start * S::LANES..], STEP);
                let at = visited[there.start].at * S::LANES * wide + column;
                let b = [&b[at..], &b[at + S::LANES..]];
                accumulate::<S, ROWS>(s, a, there.len() * S::LANES, b, wide, &mut out[r * wide + column..]);
            }
        }
    }
}

/// Accumulates a strip's products into rows of `out`, `wide` apart.
#[inline(always)]
fn accumulate<S: Lanes, const R: usize>(s: S, a: Matrix<'_>, k: usize, b: [&[f32]; 2], wide: usize, out: &mut [f32]) {
    let mut acc = [[s.splat(0.0); 2]; R];
    for (r, acc) in acc.iter_mut().enumerate() {
        *acc = [s.load(&out[r * wide..]), s.load(&out[r * wide + S::LANES..])];
    }
    let acc = strip::<S, R>(s, a, k, b, wide, acc);
    for (r, acc) in acc.into_iter().enumerate() {
        s.store(&mut out[r * wide..], acc[0]);
        s.store(&mut out[r * wide + S::LANES..], acc[1]);
    }
}

/// `out += by · x`
#[inline(always)]
fn add_scaled<S: Lanes>(s: S, by: f32, x: &[f32], out: &mut [f32]) {
    for (out, x) in out.chunks_mut(S::LANES).zip(x.chunks(S::LANES)) {
        s.store_part(out, s.fma(s.splat(by), s.load_part(x), s.load_part(out)));
    }
}
