//! Very sparse patterns, whose pairs are processed individually from lists of keys.
//!
//! A pair costs several times what it costs in a block, but masked pairs cost nothing.

use std::ops::Range;

use longreach_simd::cache::prefetch;
use longreach_simd::split::Part;
use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes, math, memory};
use ndarray::Array3;

use super::backward::{Task as Gradients, excluded};
use super::few_queries::{add_values, dot, exponentials};
use super::{Call, Dims, HIDDEN, LOG2_E, Output, Panel, Slices, higher, pack_rows, zeros};
use crate::Error;

/// Keys whose scores are computed together.
const GROUP: usize = 64;
/// Prefetch distance in pairs.
const PREFETCH_DISTANCE: usize = 64;
/// Queries per task.
const RANGE: usize = 64;
/// Queries up to which only the rows in their lists are copied, not all keys.
const FEW: usize = 8;

/// A contiguous copy of one head's rows: with their original stride they would fall into few cache sets and on a page
/// each.
struct ContiguousRows {
    memory: Vec<f32>,
    wide: usize,
}

impl ContiguousRows {
    /// Zeros.
    fn new(tokens: usize, width: usize) -> Self {
        let wide = width.next_multiple_of(16);
        Self { memory: memory::zeros(tokens * wide), wide }
    }

    /// Copies the rows of a group.
    fn of(x: &Slices<'_>, (b, g): (usize, usize), tokens: Range<usize>, cx: &Cx) -> Self {
        const TOKENS: usize = 512;
        let mut near = Self::new(tokens.len(), x.width);
        let wide = near.wide;
        let tasks = near.memory.chunks_mut(TOKENS * wide).enumerate().map(|(n, out)| {
            let first = tokens.start + n * TOKENS;
            Copy { x, at: (b, g), tokens: first..(first + TOKENS).min(tokens.end), wide, out }
        });
        cx.team.for_each(tasks.collect::<Vec<_>>(), |task| cx.isa.run(task));
        near
    }

    /// Replaces the rows by those of some tokens, in their order.
    #[inline(always)]
    fn gather<S: Lanes>(&mut self, s: S, x: &Slices<'_>, (b, g): (usize, usize), tokens: &[u32]) {
        let wide = self.wide;
        self.memory.resize(tokens.len() * wide, 0.0);
        for (row, &token) in self.memory.chunks_exact_mut(wide).zip(tokens) {
            let token = token as usize;
            pack_rows(s, x, b, g, token..token + 1, wide, row);
        }
    }

    #[inline(always)]
    fn row(&self, r: usize) -> &[f32] {
        &self.memory[r * self.wide..(r + 1) * self.wide]
    }

    #[inline(always)]
    fn row_mut(&mut self, r: usize) -> &mut [f32] {
        &mut self.memory[r * self.wide..(r + 1) * self.wide]
    }
}

/// Copies some tokens' rows.
struct Copy<'a> {
    x: &'a Slices<'a>,
    at: (usize, usize),
    tokens: Range<usize>,
    wide: usize,
    out: &'a mut [f32],
}

impl Kernel for Copy<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        pack_rows(s, self.x, self.at.0, self.at.1, self.tokens, self.wide, self.out);
    }
}

/// The rows of keys or values that a query reads.
#[derive(Clone, Copy)]
struct Rows<'a> {
    rows: &'a ContiguousRows,
    /// The token of the first row, if a row stands for each token from there on; otherwise a row stands for each key of
    /// the query's list, in its order.
    first: Option<usize>,
}

impl<'a> Rows<'a> {
    /// The row of the `n`th key of a list, which is token `j`.
    #[inline(always)]
    fn of(self, n: usize, j: u32) -> &'a [f32] {
        self.rows.row(match self.first {
            Some(first) => j as usize - first,
            None => n,
        })
    }
}

/// Attention of all queries, pair by pair.
pub(super) fn forward(call: &Call<'_>, cx: &Cx) -> Result<Output, Error> {
    if call.dims.t <= FEW {
        return Ok(few(call, cx));
    }
    let Dims { b, t, s, h, g, e, .. } = call.dims;
    let mut out = zeros((b, t, h, e));
    let mut lse = Array3::zeros((b, t, h));
    let (outs, sums) = (out.as_slice_mut().unwrap_or_default(), lse.as_slice_mut().unwrap_or_default());
    let heads = h / g;
    for (b, (out, lse)) in outs.chunks_mut((t * h * e).max(1)).zip(sums.chunks_mut((t * h).max(1))).enumerate() {
        let parts = Part::whole(out, h * e).columns(heads * e).zip(Part::whole(lse, h).columns(heads));
        for (g, (out, lse)) in parts.enumerate() {
            let (k, v) = (ContiguousRows::of(&call.k, (b, g), 0..s, cx), ContiguousRows::of(&call.v, (b, g), 0..s, cx));
            let mut tasks = Vec::new();
            for (h, (mut out, mut lse)) in out.columns(e).zip(lse.columns(1)).enumerate() {
                for first in (0..t).step_by(RANGE) {
                    let queries = first..(first + RANGE).min(t);
                    let (out, lse) = (out.take(queries.len()), lse.take(queries.len()));
                    tasks.push(Task { call, k: &k, v: &v, b, h: g * heads + h, queries, out, lse });
                }
            }
            cx.team.for_each(tasks, |task| cx.isa.run(task));
        }
    }
    Ok(Output { out, lse })
}

/// Attention of few queries: a task has one query of all heads of a group, and copies the keys in their lists. Heads with
/// the same list share the copy.
fn few(call: &Call<'_>, cx: &Cx) -> Output {
    let Dims { b, t, h, g, e, .. } = call.dims;
    let mut out = zeros((b, t, h, e));
    let mut lse = Array3::zeros((b, t, h));
    let (outs, sums) = (out.as_slice_mut().unwrap_or_default(), lse.as_slice_mut().unwrap_or_default());
    let heads = h / g;
    let parts = outs.chunks_mut((heads * e).max(1)).zip(sums.chunks_mut(heads.max(1))).enumerate();
    let tasks: Vec<_> =
        parts.map(|(i, (out, lse))| Few { call, b: i / g / t, t: i / g % t, g: i % g, out, lse }).collect();
    cx.team.for_each(tasks, |task| cx.isa.run(task));
    Output { out, lse }
}

/// One query of all heads of a group.
struct Few<'a, 'o> {
    call: &'a Call<'a>,
    b: usize,
    t: usize,
    g: usize,
    /// `[heads of a group, E]`
    out: &'o mut [f32],
    /// `[heads of a group]`
    lse: &'o mut [f32],
}

impl Kernel for Few<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self { call, b, t, g, out, lse } = self;
        let Dims { d, e, .. } = call.dims;
        let (mut k, mut v) = (ContiguousRows::new(0, d), ContiguousRows::new(0, e));
        let scratch = &mut Scratch::new(GROUP + k.wide + v.wide);
        let (mut keys, mut copied) = (Vec::new(), Vec::new());
        for (n, (out, lse)) in out.chunks_exact_mut(e).zip(lse).enumerate() {
            let h = g * (call.dims.h / call.dims.g) + n;
            call.list((b, h, t), &mut keys);
            if n == 0 || keys != copied {
                k.gather(s, &call.k, (b, g), &keys);
                v.gather(s, &call.v, (b, g), &keys);
                copied.clone_from(&keys);
            }
            let (k, v) = (Rows { rows: &k, first: None }, Rows { rows: &v, first: None });
            *lse = call.attend(s, (b, h, t), &keys, [k, v], scratch, out);
        }
    }
}

/// A range of queries of one head.
struct Task<'a, 'o> {
    call: &'a Call<'a>,
    k: &'a ContiguousRows,
    v: &'a ContiguousRows,
    b: usize,
    h: usize,
    queries: Range<usize>,
    /// `[queries, E]`
    out: Part<'o>,
    /// `[queries, 1]`
    lse: Part<'o>,
}

impl Kernel for Task<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let Self { call, k, v, h, .. } = self;
        let scratch = &mut Scratch::new(GROUP + k.wide + v.wide);
        let (k, v) = (Rows { rows: k, first: Some(0) }, Rows { rows: v, first: Some(0) });
        let mut keys = Vec::new();
        for (r, t) in self.queries.clone().enumerate() {
            call.list((self.b, h, t), &mut keys);
            let lse = call.attend(s, (self.b, h, t), &keys, [k, v], scratch, self.out.row(r));
            self.lse.row(r)[0] = lse;
        }
    }
}

impl Gradients<'_, '_> {
    /// The backward pass of one head, pair by pair.
    #[inline(always)]
    pub(super) fn scattered<S: Lanes>(mut self, s: S) {
        let (call, dout, b, h) = (&self.work.call, &self.work.dout, self.b, self.h);
        let Dims { t, s: all, h: heads, g, d, e, .. } = call.dims;
        let (first, group, one) = (self.keys.start, h / (heads / g), &Cx::new(1));
        let (k, v) = (
            ContiguousRows::of(&call.k, (b, group), self.keys.clone(), one),
            ContiguousRows::of(&call.v, (b, group), self.keys.clone(), one),
        );
        let (mut dk, mut dv) = (ContiguousRows::new(self.keys.len(), d), ContiguousRows::new(self.keys.len(), e));
        let scratch = &mut Scratch::new(3 * GROUP + 2 * k.wide + v.wide);
        let (p, rest) = scratch.split_at_mut(GROUP);
        let (ds, rest) = rest.split_at_mut(GROUP);
        let (slope, rest) = rest.split_at_mut(GROUP);
        let (q, rest) = rest.split_at_mut(k.wide);
        let (dq, of_out) = rest.split_at_mut(k.wide);
        of_out.fill(0.0);
        let mut keys = Vec::new();
        // `q` already includes the factor of the scores; this replaces it by the scale.
        let back = call.x.scale / call.factor();
        for t in 0..t {
            let (lse, delta) = (self.work.lse[[b, t, h]], self.work.delta[[b, t, h]]);
            if excluded(lse, delta) {
                continue;
            }
            call.list((b, h, t), &mut keys);
            let from = keys.partition_point(|j| (*j as usize) < first);
            let end = keys.partition_point(|j| (*j as usize) < self.keys.end);
            let keys = &keys[from..end];
            call.query((b, h, t), q);
            dout.load((b, t, h), 1.0, &mut of_out[..e]);
            dq.fill(0.0);
            let base = lse * LOG2_E;
            for keys in keys.chunks(GROUP) {
                for &j in keys {
                    let at = j as usize - first;
                    prefetch(k.row(at));
                    prefetch(v.row(at));
                }
                let rows = Rows { rows: &k, first: Some(first) };
                call.scores(s, (b, h, t), (keys, 0), rows, q, p, Some(slope));
                for part in p.chunks_exact_mut(S::LANES) {
                    s.store(part, math::exp2_at_most(s, 0.0, s.sub(s.load(part), s.splat(base))));
                }
                for (n, &j) in keys.iter().enumerate() {
                    let at = j as usize - first;
                    prefetch(dk.row(at));
                    prefetch(dv.row(at));
                    ds[n] = p[n] * (dot(s, v.row(at), of_out) - delta);
                    if let Some(bias) = self.bias.get_mut(t * all + j as usize) {
                        *bias = ds[n];
                    }
                    ds[n] *= slope[n];
                }
                for (n, &j) in keys.iter().enumerate() {
                    let at = j as usize - first;
                    math::axpy(s, ds[n], k.row(at), dq);
                    math::axpy(s, ds[n] * back, q, dk.row_mut(at));
                    math::axpy(s, p[n], of_out, dv.row_mut(at));
                }
            }
            math::scale_into(s, call.x.scale, &dq[..d], self.dq.row(t));
        }
        for row in 0..self.keys.len() {
            self.dk.row(row).copy_from_slice(&dk.row(row)[..d]);
            self.dv.row(row).copy_from_slice(&dv.row(row)[..e]);
        }
    }
}

impl Call<'_> {
    /// The keys that query `t` of a head attends to, ascending.
    pub(super) fn list(&self, (b, h, t): (usize, usize, usize), keys: &mut Vec<u32>) {
        let i = self.of.queries.start + t;
        keys.clear();
        self.pattern.list(&self.of, b, h, i, keys);
        if self.limits.any() {
            keys.retain(|j| self.limits.seen(b, i, *j as usize..*j as usize + 1) == 1);
        }
    }

    /// One query's attention to the keys of its list, into `out`; returns the log-sum-exp. `scratch` has `GROUP` numbers and
    /// as many as a row of keys and one of values.
    #[inline(always)]
    fn attend<S: Lanes>(
        &self,
        s: S,
        at: (usize, usize, usize),
        keys: &[u32],
        [k, v]: [Rows<'_>; 2],
        scratch: &mut [f32],
        out: &mut [f32],
    ) -> f32 {
        let (scores, rest) = scratch.split_at_mut(GROUP);
        let (q, sums) = rest.split_at_mut(k.rows.wide);
        let sink = self.x.sinks.map_or(HIDDEN, |sinks| sinks[at.1] * LOG2_E);
        self.query(at, q);
        sums.fill(0.0);
        let (mut high, mut total) = (HIDDEN, 0.0);
        for (n, group) in keys.chunks(GROUP).enumerate() {
            let first = n * GROUP;
            let soon = keys[first..].iter().enumerate().skip(PREFETCH_DISTANCE).take(group.len());
            soon.for_each(|(n, j)| prefetch(k.of(first + n, *j)));
            self.scores(s, at, (group, first), k, q, scores, None);
            group.iter().enumerate().for_each(|(n, j)| prefetch(v.of(first + n, *j)));
            exponentials(s, scores, &mut high, &mut total, sums);
            for (n, few) in group.chunks(4).enumerate() {
                let mut values = [&[][..]; 4];
                for (i, (value, j)) in values.iter_mut().zip(few).enumerate() {
                    *value = v.of(first + 4 * n + i, *j);
                }
                add_values(s, &scores[4 * n..][..few.len()], &values[..few.len()], sums);
            }
        }
        let top = higher(sink, high);
        if top <= HIDDEN {
            out.fill(0.0);
            return f32::NEG_INFINITY;
        }
        let weight = (high - top).exp2();
        let total = if sink <= HIDDEN { 0.0 } else { (sink - top).exp2() } + weight * total;
        math::scale_into(s, weight / total, &sums[..out.len()], out);
        top / LOG2_E + total.ln()
    }

    /// Loads a query times the factor of the scores.
    #[inline(always)]
    fn query(&self, (b, h, t): (usize, usize, usize), q: &mut [f32]) {
        self.q.load((b, t, h), self.factor(), q);
    }

    /// The scores of a group of keys, in base 2, with masked scores after the last. The group begins with the `first` key of
    /// the list.
    /// Stores the derivatives of the soft-cap in `slope`, if given; 1 without a soft-cap.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "a query, its keys and where the scores go")]
    fn scores<S: Lanes>(
        &self,
        s: S,
        at: (usize, usize, usize),
        (keys, first): (&[u32], usize),
        k: Rows<'_>,
        q: &[f32],
        scores: &mut [f32],
        mut slope: Option<&mut [f32]>,
    ) {
        scores.fill(HIDDEN);
        if let Some(slope) = &mut slope {
            slope.fill(1.0);
        }
        for (n, (score, &j)) in scores.iter_mut().zip(keys).enumerate() {
            *score = dot(s, k.of(first + n, j), q);
        }
        if self.plain() {
            return;
        }
        for (n, &j) in keys.iter().enumerate() {
            let (mut one, mut its) = ([0.0; 16], [1.0; 16]);
            one[0] = scores[n];
            let panel = Panel { at: 0, key: j as usize, cut: false, log_weight: 0.0, word: 0, shift: 0 };
            self.adjust(s, at, panel, 0, &mut one, Some(&mut its));
            scores[n] = one[0];
            if let Some(slope) = &mut slope {
                slope[n] = its[0];
            }
        }
    }
}
