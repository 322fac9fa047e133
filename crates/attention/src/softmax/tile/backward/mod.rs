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

use longreach_simd::product::Stored;
use longreach_simd::split::Part;
use longreach_simd::{Cx, Lanes};
use ndarray::{Array1, Array3, Array4, ArrayView3, Axis, Zip, s};

use super::super::mask::{Columns, Pattern};
use super::super::{Inputs, packed_sequences};
use super::{Call, Cotangent, Dims, OutputView, Slices, finite, zeros};
use crate::{Error, error};

mod task;

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
