//! Backward pass: a task owns a head and a part of its keys, which it processes `RANGE` at a time.
//!
//! It accumulates `dK` and `dV` of a range while it sweeps over all tiles of queries that visit some of its keys.
//! Scores and probabilities are recomputed from the log-sum-exp,
//!
//! $$ dV = P^\top dO, \quad dS = P \odot (dO V^\top - \delta), \quad \delta_i = do_i^\top o_i - d\mathrm{lse}_i, \quad
//!    dQ = s\,(dS \odot \tau') K, \quad dK = s\,(dS \odot \tau')^\top Q. $$
//!
//! There are five products where the forward pass has two. Dao 2023 (FlashAttention-2), algorithm 2, with the loop
//! order chosen so that no two threads accumulate into the same memory.

use std::ops::Range;

use longreach_simd::product::{Matrix, Stored, strip};
use longreach_simd::split::Part;
use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::{Array1, Array3, Array4, ArrayView3, Axis, Zip, s};

use super::super::mask::{Columns, Entry, Pattern};
use super::super::{Inputs, packed_sequences};
use super::{
    Call, Cotangent, Dims, Epilogue, LOG2_E, OutputView, Panel, ROWS, STEP, ScaledStore, Slices, TILE, Visibility,
    finite, pack_columns, pack_rows, products, push_panels, run, zeros,
};
use crate::{Error, error};

/// Keys whose gradients are accumulated at a time.
const RANGE: usize = 512;
/// With fewer heads than this number of tasks, the keys of a head are split.
const TASKS: usize = 8;

/// The gradients with respect to the inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradient {
    /// `[B, T, H, D]`
    pub q: Array4<f32>,
    /// `[B, S, G, D]`
    pub k: Array4<f32>,
    /// `[B, S, G, E]`
    pub v: Array4<f32>,
    /// `[H]`, if there are sinks
    pub sinks: Option<Array1<f32>>,
    /// Of the bias's shape, if there is one
    pub bias: Option<Array4<f32>>,
}

impl Gradient {
    /// Adds the gradient of attention over other keys. Fields that only `self` has are kept.
    pub(in crate::softmax) fn add(&mut self, more: &Self, cx: &Cx) {
        for (mine, more) in [(&mut self.q, &more.q), (&mut self.k, &more.k), (&mut self.v, &more.v)] {
            let parts = mine.axis_chunks_iter_mut(Axis(1), 64).zip(more.axis_chunks_iter(Axis(1), 64));
            cx.team.for_each(parts, |(mut mine, more)| mine += &more);
        }
        if let (Some(mine), Some(more)) = (&mut self.sinks, &more.sinks) {
            *mine += more;
        }
        if let (Some(mine), Some(more)) = (&mut self.bias, &more.bias) {
            *mine += more;
        }
    }
}

/// The gradient, given that of the output, from what [`forward`](super::forward) returned. ALiBi's slopes have no
/// gradient.
///
/// `output` may be the merge of attention over several sets of keys, of which these are one. Five products per visited
/// pair. Allocates little more than the gradients, except with a bias, whose gradient is `[B, H, T, S]` before
/// reduction. Errors on wrong shapes.
pub fn backward<T: Stored>(
    x: &Inputs<'_, T>,
    pattern: &dyn Pattern,
    output: OutputView<'_>,
    d: &Cotangent<'_>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    let op = pattern.name();
    if packed_sequences::needed(x, pattern)? {
        return packed_sequences::backward(op, x, output, d, |x, output, d| backward(x, pattern, output, d, cx));
    }
    x.sizes(op)?;
    let call = Call::new(x, pattern)?;
    let Dims { b, t, s, h, g, d: width, e } = call.dims;
    error::shape(op, "output", &[b, t, h, e], output.out.shape())?;
    error::shape(op, "lse", &[b, t, h], output.lse.shape())?;
    error::shape(op, "d out", &[b, t, h, e], d.out.shape())?;
    if let Some(lse) = &d.lse {
        error::shape(op, "d lse", &[b, t, h], lse.shape())?;
    }
    let mut delta = Array3::zeros((b, t, h));
    const TOKENS: usize = 256;
    let parts = delta.axis_chunks_iter_mut(Axis(1), TOKENS).zip(output.out.axis_chunks_iter(Axis(1), TOKENS));
    let parts: Vec<_> = parts.zip(d.out.axis_chunks_iter(Axis(1), TOKENS)).collect();
    cx.team.for_each(parts, |((mut delta, out), d)| {
        Zip::from(&mut delta).and(out.rows()).and(d.rows()).for_each(|delta, out, d| *delta = out.dot(&d));
    });
    if let Some(lse) = &d.lse {
        delta -= lse;
    }
    // A part is a number of whole ranges; how many parts there are depends on the sizes alone. With a bias there is one
    // part per head, because its gradient is one plane per head.
    let ranges = s.div_ceil(RANGE);
    let parts = if x.bias.is_some() { 1 } else { (TASKS / (b * h).max(1)).clamp(1, ranges.max(1)) };
    let part = ranges.div_ceil(parts).max(1) * RANGE;
    let parts = s.div_ceil(part).max(1);

    let mut dq = zeros((parts * b, t, h, width));
    let mut dk = zeros((b, s, h, width));
    let mut dv = zeros((b, s, h, e));
    let mut bias = x.bias.map(|_| Array4::<f32>::zeros((b, h, t, s)));
    let (rows, heads) = call.mask.planes();
    let columns = |b| (0..heads).map(|h| call.mask.columns(b, h, s, RANGE)).collect();
    let work = Shared {
        columns: (0..rows).map(columns).collect(),
        dout: Slices::of(op, "d out", &d.out)?,
        delta: delta.view(),
        lse: output.lse,
        call,
    };
    let mut tasks: Vec<Task<'_, '_>> = Vec::new();
    for b in 0..b {
        for h in 0..h {
            for n in 0..parts {
                let keys = n * part..((n + 1) * part).min(s);
                let (dq, dk, dv) = (Part::empty(), Part::empty(), Part::empty());
                tasks.push(Task { work: &work, b, h, keys, dq, dk, dv, bias: &mut [] });
            }
        }
    }
    let flat = dq.as_slice_mut().unwrap_or_default();
    for (n, dq) in flat.chunks_mut((b * t * h * width).max(1)).enumerate() {
        for (b, dq) in dq.chunks_mut((t * h * width).max(1)).enumerate() {
            for (i, rows) in Part::whole(dq, h * width).columns(width).enumerate() {
                tasks[(b * h + i) * parts + n].dq = rows;
            }
        }
    }
    for (to_v, gradient, width) in [(false, &mut dk, width), (true, &mut dv, e)] {
        let flat = gradient.as_slice_mut().unwrap_or_default();
        for (b, rows) in flat.chunks_mut((s * h * width).max(1)).enumerate() {
            for (n, rows) in rows.chunks_mut(part * h * width).enumerate() {
                for (i, rows) in Part::whole(rows, h * width).columns(width).enumerate() {
                    let task = &mut tasks[(b * h + i) * parts + n];
                    *(if to_v { &mut task.dv } else { &mut task.dk }) = rows;
                }
            }
        }
    }
    if let Some(bias) = bias.as_mut().and_then(|bias| bias.as_slice_mut()) {
        for (task, plane) in tasks.iter_mut().zip(bias.chunks_mut((t * s).max(1))) {
            task.bias = plane;
        }
    }
    cx.team.for_each(tasks, |task| cx.isa.run(task));
    mark_excluded(&work, &mut dq, [&mut dk, &mut dv], bias.as_mut());

    let sinks = x.sinks.map(|sinks| {
        Array1::from_shape_fn(h, |h| {
            let (lse, delta) = (output.lse.slice(s![.., .., h]), delta.slice(s![.., .., h]));
            -lse.iter().zip(&delta).map(|(lse, delta)| (sinks[h] - lse).min(0.0).exp() * delta).sum::<f32>()
        })
    });
    let group = |x: Array4<f32>| if h == g { x } else { sum_groups(&x, g) };
    let bias = bias.map(|full| {
        let shape = x.bias.map_or((1, 1), |bias| (bias.dim().0, bias.dim().1));
        let full = if shape.0 == 1 { full.sum_axis(Axis(0)).insert_axis(Axis(0)) } else { full };
        if shape.1 == 1 { full.sum_axis(Axis(1)).insert_axis(Axis(1)) } else { full }
    });
    let mut q = dq;
    for part in 1..parts {
        let (mut sum, more) = q.view_mut().split_at(Axis(0), part * b);
        sum.slice_mut(s![..b, .., .., ..]).zip_mut_with(&more.slice(s![..b, .., .., ..]), |sum, more| *sum += more);
    }
    q.slice_collapse(s![..b, .., .., ..]);
    Ok(Gradient { q, k: group(dk), v: group(dv), sinks, bias })
}

/// Excluded rows have non-finite softmax statistics or gradients: sets their gradients, and those of their keys, to
/// NaN.
fn mark_excluded(
    work: &Shared<'_>,
    dq: &mut Array4<f32>,
    of_keys: [&mut Array4<f32>; 2],
    mut bias: Option<&mut Array4<f32>>,
) {
    let call = &work.call;
    let (rows, block) = call.mask.block();
    let [dk, dv] = of_keys;
    let mut keys = Vec::new();
    for ((b, t, h), lse) in work.lse.indexed_iter() {
        let delta = work.delta[[b, t, h]];
        if !excluded(*lse, delta) || *lse == f32::NEG_INFINITY && delta.is_finite() {
            continue;
        }
        dq.slice_mut(s![b, t, h, ..]).fill(f32::NAN);
        keys.clear();
        if call.pattern.scattered() {
            call.list((b, h, t), &mut keys);
        } else {
            for entry in call.mask.row(b, h, (call.of.queries.start + t) / rows) {
                let there = entry.keys as usize * block..((entry.keys as usize + 1) * block).min(call.dims.s);
                for at in (there.start / 64 * 64..there.end).step_by(64) {
                    let near = at..(at + 64).min(call.dims.s);
                    let seen = if entry.cut { call.seen((b, h, t), near.clone()) } else { u64::MAX };
                    keys.extend(near.filter(|j| there.contains(j) && seen >> (j - at) & 1 == 1).map(|j| j as u32));
                }
            }
        }
        for &j in &keys {
            let j = j as usize;
            dk.slice_mut(s![b, j, h, ..]).fill(f32::NAN);
            dv.slice_mut(s![b, j, h, ..]).fill(f32::NAN);
            if let Some(bias) = &mut bias {
                bias[[b, h, t, j]] = f32::NAN;
            }
        }
    }
}

/// Whether a row is excluded: it attends to no key, or its softmax or its gradient is not finite.
#[inline(always)]
pub(super) fn excluded(lse: f32, delta: f32) -> bool {
    !(lse.is_finite() && delta.is_finite())
}

/// Zeroes columns of `[.., LANES]` with non-finite elements: only excluded rows attend to such keys.
#[inline(always)]
fn zero_non_finite_columns<S: Lanes>(s: S, x: &mut [f32]) {
    if finite(s, x) {
        return;
    }
    for lane in 0..S::LANES {
        if x.iter().skip(lane).step_by(S::LANES).any(|x| !x.is_finite()) {
            x.iter_mut().skip(lane).step_by(S::LANES).for_each(|x| *x = 0.0);
        }
    }
}

/// As [`zero_non_finite_columns`], for rows.
#[inline(always)]
fn zero_non_finite_rows<S: Lanes>(s: S, x: &mut [f32], wide: usize) {
    if !finite(s, x) {
        x.chunks_exact_mut(wide).filter(|row| row.iter().any(|x| !x.is_finite())).for_each(|row| row.fill(0.0));
    }
}

/// Sums the heads of each group: `[B, S, H, D]` to `[B, S, G, D]`.
fn sum_groups(x: &Array4<f32>, g: usize) -> Array4<f32> {
    let (b, s, h, d) = x.dim();
    let heads = h / g;
    let mut out = Array4::zeros((b, s, g, d));
    for h in 0..h {
        let mut group = out.index_axis_mut(Axis(2), h / heads);
        group += &x.index_axis(Axis(2), h);
    }
    out
}

/// Read by all tasks.
pub(super) struct Shared<'a> {
    pub(super) call: Call<'a>,
    pub(super) dout: Slices<'a>,
    pub(super) delta: ArrayView3<'a, f32>,
    pub(super) lse: ArrayView3<'a, f32>,
    /// The transpose of the mask, per plane: the query blocks that visit each range of keys.
    columns: Vec<Vec<Columns>>,
}

/// A head and a part of its keys.
pub(super) struct Task<'a, 'o> {
    pub(super) work: &'a Shared<'a>,
    pub(super) b: usize,
    pub(super) h: usize,
    pub(super) keys: Range<usize>,
    /// `[T, D]`
    pub(super) dq: Part<'o>,
    /// `[keys, D]`
    pub(super) dk: Part<'o>,
    /// `[keys, E]`
    pub(super) dv: Part<'o>,
    /// `[T, S]`, or empty if there is no bias.
    pub(super) bias: &'o mut [f32],
}

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
                accumulate(s, a, end - first, b, wide, &mut out[j * wide + column..]);
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
                accumulate(s, a, there.len() * S::LANES, b, wide, &mut out[r * wide + column..]);
            }
        }
    }
}

/// Accumulates a strip's products into rows of `out`, `wide` apart.
#[inline(always)]
fn accumulate<S: Lanes>(s: S, a: Matrix<'_>, k: usize, b: [&[f32]; 2], wide: usize, out: &mut [f32]) {
    let mut acc = [[s.splat(0.0); 2]; ROWS];
    for (r, acc) in acc.iter_mut().enumerate() {
        *acc = [s.load(&out[r * wide..]), s.load(&out[r * wide + S::LANES..])];
    }
    let acc = strip::<S, ROWS>(s, a, k, b, wide, acc);
    for (r, acc) in acc.into_iter().enumerate() {
        s.store(&mut out[r * wide..], acc[0]);
        s.store(&mut out[r * wide + S::LANES..], acc[1]);
    }
}

/// `out += by · x`
#[inline(always)]
pub(super) fn add_scaled<S: Lanes>(s: S, by: f32, x: &[f32], out: &mut [f32]) {
    for (out, x) in out.chunks_mut(S::LANES).zip(x.chunks(S::LANES)) {
        s.store_part(out, s.fma(s.splat(by), s.load_part(x), s.load_part(out)));
    }
}
