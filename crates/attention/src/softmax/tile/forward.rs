//! The family's one kernel: block-sparse attention with online softmax.
//!
//! $$ o_i = \sum_j p_{ij} v_j, \quad p_{ij} = e^{y_{ij} - \mathrm{lse}_i}, \quad \mathrm{lse}_i = \ln \textstyle\sum_j e^{y_{ij}}, \quad
//!    y_{ij} = \tau(s\,q_i^\top k_j) + b_{ij} $$
//!
//! A task owns a range of queries of the heads that share keys. It takes the keys a `STEP` at a time, packs those that some query of
//! its range visits, and lets every tile of queries catch up: scores, their maximum so far, their exponentials, the
//! weighted values. Nothing of size `T × T` exists. Milakov and Gimelshein 2018; Dao et al. 2022 (FlashAttention), algorithm 1.

use std::ops::Range;

use longreach_simd::product::{Matrix, Stored, columns, strip, widen};
use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes, math, split};
use ndarray::{Array3, Array4, ArrayView1, ArrayView4};

use super::mask::{BlockMask, Cut, Entry, Seen};
use crate::{Error, error};

/// Keys that are packed together.
const STEP: usize = 256;
/// Queries of a register tile.
const ROWS: usize = 8;
/// Queries that meet the packed keys together.
const TILE: usize = 64;
/// Queries of a task, over all heads that share its keys: so many share the packing.
const RANGE: usize = 1024;
/// The score of a pair that is hidden: finite, so that differences stay numbers.
const HIDDEN: f32 = -1e30;

/// What is attended to, and how scores are made. `T` is f32 or bf16.
#[derive(Clone, Copy)]
pub struct Inputs<'a, T = f32> {
    /// `[B, T, H, D]`
    pub q: ArrayView4<'a, T>,
    /// `[B, S, G, D]`, head `h` reads group `h / (H / G)`
    pub k: ArrayView4<'a, T>,
    /// `[B, S, G, E]`
    pub v: ArrayView4<'a, T>,
    /// `s`
    pub scale: f32,
    /// `τ(x) = c tanh(x / c)` where there is a `c`
    pub softcap: Option<f32>,
    /// Added to the scores, `[B or 1, H or 1, T, S]`
    pub bias: Option<ArrayView4<'a, f32>>,
    /// A score a head that every row's softmax has beside its keys, with no value: `[H]`
    pub sinks: Option<ArrayView1<'a, f32>>,
    /// Which blocks are visited.
    pub mask: &'a BlockMask,
    /// What is seen inside the blocks that are cut.
    pub cut: &'a dyn Cut,
}

/// The output, and the logarithm of the sum of the exponentials: −∞ where a query sees no key, whose output is zero.
#[derive(Clone, Debug)]
pub struct Output {
    /// `[B, T, H, E]`
    pub out: Array4<f32>,
    /// `[B, T, H]`
    pub lse: Array3<f32>,
}

/// The sizes of a call.
#[derive(Clone, Copy, Debug)]
struct Dims {
    b: usize,
    t: usize,
    s: usize,
    h: usize,
    g: usize,
    d: usize,
    e: usize,
}

impl<T> Inputs<'_, T> {
    fn dims(&self, op: &'static str) -> Result<Dims, Error> {
        let (b, t, h, d) = self.q.dim();
        let (_, s, g, e) = self.v.dim();
        error::shape(op, "k", &[b, s, g, d], self.k.shape())?;
        error::shape(op, "v", &[b, s, g, e], self.v.shape())?;
        if g == 0 || h % g != 0 {
            return Err(Error::Groups { op, heads: h, groups: g });
        }
        if let Some(bias) = &self.bias {
            let one = |n: usize, of: usize| if n == 1 { 1 } else { of };
            error::shape(op, "bias", &[one(bias.dim().0, b), one(bias.dim().1, h), t, s], bias.shape())?;
        }
        if let Some(sinks) = &self.sinks {
            error::shape(op, "sinks", &[h], sinks.shape())?;
        }
        self.mask.check(op, b, h, (t, s))?;
        Ok(Dims { b, t, s, h, g, d, e })
    }
}

/// A row of `[B, T, H, D]` views without going through the view: where token `(b, t)` of head `h` lies.
struct Slices<'a, T> {
    tokens: Vec<&'a [T]>,
    length: usize,
    width: usize,
}

impl<'a, T> Slices<'a, T> {
    fn of(op: &'static str, input: &'static str, x: &'a ArrayView4<'_, T>) -> Result<Self, Error> {
        let (_, length, _, width) = x.dim();
        Ok(Self { tokens: crate::sequences::tokens(op, input, x)?, length, width })
    }

    #[inline(always)]
    fn row(&self, b: usize, t: usize, h: usize) -> &'a [T] {
        &self.tokens[b * self.length + t][h * self.width..(h + 1) * self.width]
    }
}

/// The bias: a plane `[T, S]` for each of its sequences and heads.
struct Bias<'a> {
    planes: Vec<&'a [f32]>,
    batch: usize,
    heads: usize,
    keys: usize,
}

impl<'a> Bias<'a> {
    fn of(op: &'static str, x: &'a ArrayView4<'_, f32>) -> Result<Self, Error> {
        let (batch, heads, _, keys) = x.dim();
        Ok(Self { planes: crate::sequences::tokens(op, "bias", x)?, batch, heads, keys })
    }

    #[inline(always)]
    fn row(&self, b: usize, h: usize, i: usize) -> &'a [f32] {
        let plane = self.planes[(b % self.batch) * self.heads + h % self.heads];
        &plane[i * self.keys..(i + 1) * self.keys]
    }
}

/// Softmax attention over the blocks of a mask. `op` is named in errors.
pub fn forward<T: Stored>(op: &'static str, x: &Inputs<'_, T>, cx: &Cx) -> Result<Output, Error> {
    let dims = x.dims(op)?;
    let Dims { b, t, h, g, e, .. } = dims;
    let mut out = Array4::from_elem((b, t, h, e), f32::NAN);
    let mut lse = Array3::from_elem((b, t, h), f32::NAN);
    let call = Call {
        x,
        dims,
        q: Slices::of(op, "q", &x.q)?,
        k: Slices::of(op, "k", &x.k)?,
        v: Slices::of(op, "v", &x.v)?,
        bias: x.bias.as_ref().map(|bias| Bias::of(op, bias)).transpose()?,
    };
    let heads = h / g;
    let block = x.mask.block().0;
    // Whole blocks of queries a task, enough tasks for every thread.
    let blocks = t.div_ceil(block);
    let enough = (b * g * blocks).div_ceil(4 * cx.team.threads());
    let range = (RANGE / (heads * block).max(1)).min(enough).max(1);
    let mut tasks = Vec::new();
    let per_row = (out.as_slice_mut().unwrap_or_default(), lse.as_slice_mut().unwrap_or_default());
    let outs = per_row.0.chunks_mut((t * h * e).max(1));
    for (b, (out, lse)) in outs.zip(per_row.1.chunks_mut((t * h).max(1))).enumerate() {
        let parts = split::columns(out, h * e, heads * e).into_iter().zip(split::columns(lse, h, heads));
        for (g, (out, lse)) in parts.enumerate() {
            let (mut out, mut lse) = (out.into_iter(), lse.into_iter());
            for first in (0..blocks).step_by(range) {
                let blocks = first..(first + range).min(blocks);
                let rows = (blocks.end * block).min(t) - blocks.start * block;
                let (out, lse) = (out.by_ref().take(rows).collect(), lse.by_ref().take(rows).collect());
                tasks.push(Task { call: &call, b, g, blocks, out, lse });
            }
        }
    }
    // The last queries of a causal mask have the most to do: they go first.
    tasks.reverse();
    cx.team.for_each(tasks, |task| cx.isa.run(task));
    Ok(Output { out, lse })
}

struct Call<'a, 'i, T> {
    x: &'a Inputs<'i, T>,
    dims: Dims,
    q: Slices<'a, T>,
    k: Slices<'a, T>,
    v: Slices<'a, T>,
    bias: Option<Bias<'a>>,
}

/// A range of queries of the heads of a group.
struct Task<'a, 'i, 'o, T> {
    call: &'a Call<'a, 'i, T>,
    b: usize,
    g: usize,
    /// Blocks of queries.
    blocks: Range<usize>,
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

/// A vector's worth of keys.
#[derive(Clone, Copy)]
struct Panel {
    /// Which of the step's.
    at: usize,
    cut: bool,
    log_weight: f32,
}

impl<T: Stored> Kernel for Task<'_, '_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let call = self.call;
        let Dims { t, s: keys, h, g, d, e, .. } = call.dims;
        let (block, key_block) = call.x.mask.block();
        let heads = h / g;
        let wide = e.next_multiple_of(2 * S::LANES);
        let plain = call.x.softcap.is_none() && call.bias.is_none();
        // exp2 is cheaper than exp: the factor goes into the queries, or is applied once the scores are final.
        let log2_e = std::f32::consts::LOG2_E;
        let factor = if plain { call.x.scale * log2_e } else { call.x.scale };

        let mut tiles = Vec::new();
        let mut at = 0;
        for head in self.g * heads..(self.g + 1) * heads {
            for i in self.blocks.clone() {
                let entries = call.x.mask.row(self.b, head, i);
                for first in (i * block..((i + 1) * block).min(t)).step_by(TILE) {
                    let rows = TILE.min(((i + 1) * block).min(t) - first);
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
            for first in (0..tile.rows.next_multiple_of(ROWS)).step_by(ROWS) {
                let strip = &mut q[(tile.at + first) * d..(tile.at + first + ROWS) * d];
                for r in 0..ROWS {
                    for i in 0..d {
                        strip[i * ROWS + r] = 0.0;
                    }
                    if first + r < tile.rows {
                        let row = call.q.row(self.b, tile.first + first + r, tile.h);
                        for (i, x) in row.iter().enumerate() {
                            strip[i * ROWS + r] = factor * x.widen();
                        }
                    }
                }
            }
        }

        let mut panels = Vec::with_capacity(STEP / S::LANES);
        for start in (0..keys).step_by(STEP) {
            let end = (start + STEP).min(keys);
            let mut packed = [false; STEP];
            for tile in &mut tiles {
                panels.clear();
                while let [entry, rest @ ..] = tile.entries
                    && (entry.keys as usize) * key_block < end
                {
                    let first = entry.keys as usize * key_block;
                    for key in (first..(first + key_block).min(keys)).step_by(S::LANES) {
                        let cut = entry.cut || key + S::LANES > keys;
                        panels.push(Panel { at: (key - start) / S::LANES, cut, log_weight: entry.log_weight });
                    }
                    tile.entries = rest;
                }
                if panels.is_empty() {
                    continue;
                }
                for panel in &panels {
                    if !std::mem::replace(&mut packed[panel.at], true) {
                        let first = start + panel.at * S::LANES;
                        let there = S::LANES.min(keys - first);
                        pack(s, call, self.b, self.g, first..first + there, panel.at, wide, packed_k, packed_v);
                    }
                }
                let mut state = State {
                    q: &q[tile.at * d..],
                    sums: &mut sums[tile.at * wide..],
                    highest: &mut highest[tile.at..],
                    total: &mut total[tile.at..],
                    wide,
                };
                work.scores(s, tile, &state, &panels, packed_k, d);
                work.adjust(s, call, self.b, tile, &panels, start);
                work.exponentials(s, tile, &mut state, &panels);
                work.values(s, tile, &mut state, &panels, packed_v);
            }
        }

        for tile in &tiles {
            let head = tile.h - self.g * heads;
            for r in 0..tile.rows {
                let row = tile.first + r - self.blocks.start * block;
                let (mut high, mut sum) = (highest[tile.at + r], total[tile.at + r]);
                let mut keep = 1.0;
                if let Some(sinks) = &call.x.sinks {
                    let sink = sinks[tile.h] * log2_e;
                    let top = high.max(sink);
                    keep = (high - top).exp2();
                    sum = sum * keep + (sink - top).exp2();
                    high = top;
                }
                let scale = if sum == 0.0 { 0.0 } else { keep / sum };
                let from = &sums[(tile.at + r) * wide..(tile.at + r) * wide + e];
                math::scale_into(s, scale, from, &mut self.out[row][head * e..(head + 1) * e]);
                self.lse[row][head] = if sum == 0.0 { f32::NEG_INFINITY } else { high / log2_e + sum.ln() };
            }
        }
    }
}

/// Packs a vector's worth of keys, transposed, and their values.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "where from and where to")]
fn pack<S: Lanes, T: Stored>(
    s: S,
    call: &Call<'_, '_, T>,
    b: usize,
    g: usize,
    keys: Range<usize>,
    panel: usize,
    wide: usize,
    packed_k: &mut [f32],
    packed_v: &mut [f32],
) {
    let Dims { d, e, .. } = call.dims;
    let mut rows = [&[][..]; 16];
    for (row, j) in rows.iter_mut().zip(keys.clone()) {
        *row = call.k.row(b, j, g);
    }
    columns(s, &rows[..keys.len()], d, &mut packed_k[panel * S::LANES * d..(panel + 1) * S::LANES * d]);
    for (i, row) in packed_v[panel * S::LANES * wide..(panel + 1) * S::LANES * wide].chunks_exact_mut(wide).enumerate()
    {
        if i < keys.len() {
            widen(s, call.v.row(b, keys.start + i, g), &mut row[..e]);
            row[e..].fill(0.0);
        } else {
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

    /// `q kᵀ`.
    #[inline(always)]
    fn scores<S: Lanes>(&mut self, s: S, tile: &Tile<'_>, state: &State<'_>, panels: &[Panel], keys: &[f32], d: usize) {
        let size = S::LANES * d;
        for (i, pair) in panels.chunks(2).enumerate() {
            let b = [pair[0], pair[pair.len() - 1]].map(|p| &keys[p.at * size..(p.at + 1) * size]);
            for first in (0..tile.rows).step_by(ROWS) {
                let a = Matrix { data: &state.q[first * d..(first + ROWS) * d], row: 1, col: ROWS };
                let acc = strip::<S, ROWS>(s, a, d, b, S::LANES, [[s.splat(0.0); 2]; ROWS]);
                for (r, acc) in acc.into_iter().enumerate() {
                    let row = &mut self.scores[(first + r) * STEP + 2 * i * S::LANES..];
                    s.store(row, acc[0]);
                    if pair.len() == 2 {
                        s.store(&mut row[S::LANES..], acc[1]);
                    }
                }
            }
        }
    }

    /// What follows the product: soft-cap, bias, weights, and what is hidden.
    #[inline(always)]
    fn adjust<S: Lanes, T: Stored>(
        &mut self,
        s: S,
        call: &Call<'_, '_, T>,
        b: usize,
        tile: &Tile<'_>,
        panels: &[Panel],
        start: usize,
    ) {
        let log2_e = std::f32::consts::LOG2_E;
        let plain = call.x.softcap.is_none() && call.bias.is_none();
        let keys = call.dims.s;
        if plain && panels.iter().all(|p| !p.cut && p.log_weight == 0.0) {
            return;
        }
        for r in 0..tile.rows {
            let row = &mut self.scores[r * STEP..(r + 1) * STEP];
            let i = tile.first + r;
            for (panel, part) in panels.iter().zip(row.chunks_exact_mut(S::LANES)) {
                let first = start + panel.at * S::LANES;
                let mut y = s.load(part);
                if let Some(cap) = call.x.softcap {
                    y = s.mul(s.splat(cap), math::tanh(s, s.mul(y, s.splat(1.0 / cap))));
                }
                if let Some(bias) = &call.bias {
                    y = s.add(y, s.load_part(&bias.row(b, tile.h, i)[first..]));
                }
                if !plain {
                    y = s.mul(y, s.splat(log2_e));
                }
                y = s.add(y, s.splat(panel.log_weight * log2_e));
                s.store(part, y);
                if !panel.cut {
                    continue;
                }
                let there = first..(first + S::LANES).min(keys);
                match call.x.cut.row(b, tile.h, i, there.clone()) {
                    Seen::Span(span) => {
                        let from = span.start.clamp(first, there.end) - first;
                        let to = span.end.clamp(first + from, there.end) - first;
                        part[..from].fill(HIDDEN);
                        part[to..].fill(HIDDEN);
                    }
                    Seen::Each => {
                        for (j, y) in part.iter_mut().enumerate() {
                            if first + j >= keys || !call.x.cut.sees(b, tile.h, i, first + j) {
                                *y = HIDDEN;
                            }
                        }
                    }
                }
            }
        }
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
                // A score that is not a number is the highest.
                high = if *x <= high { high } else { *x };
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
                    let mut run = 1;
                    while done + run < panels.len() && panels[done + run].at == panels[done].at + run {
                        run += 1;
                    }
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
}
