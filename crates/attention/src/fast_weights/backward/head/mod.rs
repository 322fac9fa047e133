//! The sweeps over the consecutive heads of a task, one segment of each head in turn: the rows of these heads are
//! contiguous in memory for each token.

use std::ops::Range;
use std::sync::atomic::Ordering;

use longreach_simd::cache::store_fence;
use longreach_simd::split::Part;
use longreach_simd::team::Scratch;
use longreach_simd::{Isa, Kernel, Lanes, math};

use super::ByHead;
use super::segment::{Segment, Shape};
use crate::fast_weights::Tokens;
use crate::fast_weights::decay::{Cuts, take};
use crate::fast_weights::pass::{Independent, Prefetch, ReadFirst, run_pass, transpose};
use crate::one_token::read;
use crate::sequences::Rows;

mod backward_sweep;
mod forward_sweep;
mod kept;

use kept::Kept;

/// A task: consecutive heads of one sequence.
pub(super) struct Heads<'a, 'o>(pub(super) Vec<Head<'a, 'o>>);

/// One head of a task.
pub(super) struct Head<'a, 'o> {
    pub(super) x: &'a Tokens<'a>,
    pub(super) isa: Isa,
    pub(super) d_o: &'a Rows<'a>,
    /// The factors of the rows of `d_o`, `[B T, H]`.
    pub(super) by: Option<&'a [f32]>,
    pub(super) range: Range<usize>,
    pub(super) h: usize,
    /// The state before the first token, `[K, V]`.
    pub(super) state: &'a [f32],
    /// On entry the gradient to the state after the last token; on return, to the state before the first.
    pub(super) d_state: &'o mut [f32],
    pub(super) to: ByHead<Part<'o>>,
    /// Whether gradients are written with non-temporal stores.
    pub(super) non_temporal: bool,
}

/// As [`run_pass`], over a transposed matrix. With a gate, tokens read before they write.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a pass has many parts")]
fn run_transposed<const W: usize, const P: usize>(
    (isa, gated): (Isa, bool),
    pass: (usize, usize, usize, bool),
    matrix: &mut [f32],
    cuts: Cuts<'_>,
    write: [&[f32]; W],
    written: [&mut [f32]; W],
    read: [&[f32]; P],
    out: [&mut [f32]; P],
    prefetch: &dyn Prefetch,
) {
    match gated {
        true => run_pass(isa, pass, matrix, cuts, write, written, read, out, ReadFirst, prefetch),
        false => run_pass(isa, pass, matrix, cuts, write, written, read, out, Independent, prefetch),
    }
}

impl Kernel for Heads<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self(mut heads) = self;
        let Some(&Head { x, ref range, non_temporal, .. }) = heads.first() else { return };
        let (k, v, gates, total) = (x.dims.k, x.dims.v, x.gate_width(), range.len());
        if total == 0 {
            return;
        }
        let (erases, general) = (x.erases(), x.erase.is_some());
        let shape = Shape { max_tokens: Shape::tokens(k, v, gates).min(total), k, v, gates, erases, general };
        let size = shape.size() + heads.len() * Kept::size(shape, total) + 2 * k.max(v);
        let scratch = &mut Scratch::new(size);
        let mut rest = &mut scratch[..];
        let mut rows = Segment::new(shape, &mut rest);
        let [row, product] = [k.max(v); 2].map(|width| take(&mut rest, width));
        let mut all: Vec<_> = heads.iter().map(|_| Kept::new(shape, total, &mut rest)).collect();
        for (head, kept) in heads.iter_mut().zip(&mut all) {
            head.begin(s, kept, [&mut *row, &mut *product]);
        }
        let segments = total.div_ceil(shape.max_tokens);
        let (last, head_indices) = (segments - 1, heads.iter().map(|head| head.h).collect::<Vec<_>>());
        let after = |i: usize| if i + 1 < head_indices.len() { (i + 1, 0) } else { (0, 1) };
        for (j, i) in (0..segments).flat_map(|j| (0..head_indices.len()).map(move |i| (j, i))) {
            let (next, segment) = (head_indices[after(i).0], j + after(i).1);
            match erases {
                true => heads[i].erased(s, shape, &mut rows, &mut all[i], j, (next, segment)),
                false => heads[i].queries(s, shape, &mut rows, &mut all[i], j, (next, segment)),
            }
        }
        for (j, i) in (0..segments).rev().flat_map(|j| (0..head_indices.len()).map(move |i| (j, i))) {
            let (next, back) = after(i);
            let next = (head_indices[next], heads[next].to.q.addresses(), j.checked_sub(back));
            heads[i].sweep(s, shape, &mut rows, &mut all[i], (j, j == last), next);
        }
        for (head, kept) in heads.iter_mut().zip(&all) {
            head.end(s, kept);
        }
        if rows.decay.positive_gate {
            x.positive_gate.store(true, Ordering::Relaxed);
        }
        if non_temporal {
            store_fence();
        }
    }
}

impl<'a> Head<'a, '_> {
    /// Writes the gradient to the output of token `at` of the sequence to `out`.
    #[inline(always)]
    fn load_d_o<S: Lanes>(&self, s: S, at: usize, out: &mut [f32]) {
        let t = self.range.start + at;
        let row = self.x.of_value(self.d_o, t, self.h);
        match self.by {
            None => math::copy(s, row, out),
            Some(by) => math::scale_into(s, by[t * self.x.dims.h + self.h], row, out),
        }
    }

    /// Appends the decay, key and value of token `t` of the batch as row `r` of the segment.
    #[inline(always)]
    fn push_token<S: Lanes>(&self, s: S, shape: Shape, rows: &mut Segment<'_>, (t, r): (usize, usize)) {
        let (x, h, Shape { k, v, .. }) = (self.x, self.h, shape);
        rows.decay.push(s, x.gates(t, h));
        x.key(s, t, h, rows.decay.inverse(r), &mut rows.k[r * k..(r + 1) * k]);
        math::copy(s, x.v(t, h), &mut rows.v[r * v..(r + 1) * v]);
    }

    /// Whether `dq` of the forward sweep is completed and scaled by the backward sweep.
    pub(super) fn defers_dq(&self) -> bool {
        self.x.g.is_some() || self.x.bonus.is_some() || self.x.erases()
    }

    /// The tokens of segment `j`, relative to the sequence.
    #[inline(always)]
    fn segment(&self, j: usize, shape: Shape) -> Range<usize> {
        let total = self.range.len();
        (j * shape.max_tokens).min(total)..((j + 1) * shape.max_tokens).min(total)
    }

    /// The tokens of segment `j`, relative to the batch.
    #[inline(always)]
    fn batch_segment(&self, j: usize, shape: Shape) -> Range<usize> {
        let Range { start, end } = self.segment(j, shape);
        self.range.start + start..self.range.start + end
    }

    /// Sets up the state, its gradient, and what the first token reads before it is written.
    #[inline(always)]
    fn begin<S: Lanes>(&mut self, s: S, kept: &mut Kept<'_>, [row, product]: [&mut [f32]; 2]) {
        let (x, k, v) = (self.x, self.x.dims.k, self.x.dims.v);
        transpose(s, self.d_state, v, kept.d_state);
        if x.erases() {
            kept.state.copy_from_slice(self.state);
            x.a(s, self.range.start, self.h, &mut row[..k]);
            return read(s, kept.state, &row[..k], &mut kept.w[..v]);
        }
        transpose(s, self.state, v, kept.state);
        if x.bonus.is_some() {
            self.load_d_o(s, 0, &mut row[..v]);
            read(s, kept.state, &row[..v], &mut product[..k]);
            math::copy(s, &product[..k], self.to.q.row(0));
        }
    }

    /// Adds the first token's gradients of the reads before its write, which no preceding token adds.
    #[inline(always)]
    fn end<S: Lanes>(&mut self, s: S, kept: &Kept<'_>) {
        let [of_output, of_erased] = kept.boundary.writes();
        if self.x.erases() {
            add_outer(s, of_erased.0, of_erased.1, self.d_state);
        }
        if self.x.bonus.is_some() {
            add_outer(s, of_output.0, of_output.1, self.d_state);
        }
    }
}

/// Row `r` of rows of the given width.
#[inline(always)]
pub(super) fn nth(rows: &[f32], r: usize, width: usize) -> &[f32] {
    &rows[r * width..(r + 1) * width]
}

/// `X += u yᵀ`
#[inline(always)]
fn add_outer<S: Lanes>(s: S, u: &[f32], y: &[f32], matrix: &mut [f32]) {
    for (row, u) in matrix.chunks_exact_mut(y.len().max(1)).zip(u) {
        math::axpy(s, *u, y, row);
    }
}
