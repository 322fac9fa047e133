//! The online softmax of a tile: running maxima and sums, and the weighted values of one step.

use longreach_simd::product::{Matrix, strip};
use longreach_simd::{Lanes, math};

use super::super::{Call, HIDDEN, Panel, ROWS, STEP, ScaledStore, TILE, Visibility, higher, pack_rows, products, run};
use super::packed::Packed;
use super::task::Tile;

/// The online-softmax state of a tile's rows.
pub(super) struct State<'a> {
    /// Queries, `[TILE, D]`.
    pub(super) q: &'a mut [f32],
    /// Weighted sums of values, `[TILE, wide]`.
    pub(super) sums: &'a mut [f32],
    /// Running maximum of the scores, in base 2.
    pub(super) highest: &'a mut [f32],
    /// Running sum of exponentials.
    pub(super) total: &'a mut [f32],
    pub(super) d: usize,
    pub(super) wide: usize,
}

impl<'a> State<'a> {
    pub(super) fn size(d: usize, wide: usize) -> usize {
        TILE * (d + wide + 2)
    }

    #[inline(always)]
    pub(super) fn new(memory: &'a mut [f32], d: usize, wide: usize) -> Self {
        let (q, rest) = memory.split_at_mut(TILE * d);
        let (sums, rest) = rest.split_at_mut(TILE * wide);
        let (highest, total) = rest.split_at_mut(TILE);
        Self { q, sums, highest, total, d, wide }
    }

    /// The initial state.
    #[inline(always)]
    pub(super) fn start<S: Lanes>(&mut self, s: S, call: &Call<'_>, b: usize, tile: &Tile<'_>) {
        self.sums.fill(0.0);
        self.highest.fill(HIDDEN);
        self.total.fill(0.0);
        pack_rows(s, &call.q, b, tile.h, tile.first..tile.first + tile.rows, self.d, self.q);
    }
}

/// The scores of a tile in one step, and buffers for their softmax.
pub(super) struct Work<'a> {
    /// `[TILE, STEP]`, with visited panels contiguous.
    pub(super) scores: &'a mut [f32],
    /// One vector per row, to be reduced.
    pub(super) lanes: &'a mut [f32],
    /// Per row, what scores are measured from.
    pub(super) base: &'a mut [f32],
    /// Per row, the factor that rescales the sums so far.
    pub(super) rescale: &'a mut [f32],
    pub(super) visibility: Visibility,
}

impl<'a> Work<'a> {
    pub(super) fn size(lanes: usize) -> usize {
        TILE * (STEP + lanes + 2)
    }

    #[inline(always)]
    pub(super) fn new(memory: &'a mut [f32], lanes: usize) -> Self {
        let (scores, rest) = memory.split_at_mut(TILE * STEP);
        let (lanes, rest) = rest.split_at_mut(TILE * lanes);
        let (base, rescale) = rest.split_at_mut(TILE);
        Self { scores, lanes, base, rescale, visibility: Visibility::new() }
    }

    /// Advances a tile over up to a step of packed keys.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "a tile, and what it meets")]
    pub(super) fn step<S: Lanes>(
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
    pub(super) fn exponentials<S: Lanes>(&mut self, s: S, tile: &Tile<'_>, state: &mut State<'_>) {
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
    pub(super) fn values<S: Lanes>(
        &mut self,
        s: S,
        tile: &Tile<'_>,
        state: &mut State<'_>,
        panels: &[Panel],
        values: &[f32],
    ) {
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
    pub(super) fn add_non_finite<S: Lanes>(
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
