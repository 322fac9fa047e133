//! The sweeps over the consecutive heads of a task, one segment of each head in turn: the rows of these heads are
//! contiguous in memory for each token.

use std::ops::Range;
use std::sync::atomic::Ordering;

use longreach_simd::cache::{PrefetchQueue, store_fence};
use longreach_simd::split::{Part, RowAddresses};
use longreach_simd::team::Scratch;
use longreach_simd::{Isa, Kernel, Lanes, math};

use super::ByHead;
use super::segment::{Boundary, GateGradient, Segment, Shape};
use crate::fast_weights::Tokens;
use crate::fast_weights::decay::{Cuts, DecayAxis, scale, scale_twice_into, take};
use crate::fast_weights::forward::{Correct, Move, correct};
use crate::fast_weights::pass::{Carry, Independent, NoPrefetch, Prefetch, ReadFirst, Step, run_pass, transpose};
use crate::one_token::read;
use crate::sequences::Rows;

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

/// The delta rule backward: `dw = −β dv` of a token is written to the gradient of the state before it.
struct CorrectBackward<'a> {
    beta: &'a [f32],
}

impl Carry<2, 1> for CorrectBackward<'_> {
    #[inline(always)]
    fn carry<S: Lanes>(&self, s: S, step: Step, written: &mut [&mut [f32]; 2], out: &[&mut [f32]; 1]) {
        let Step { tokens: [here, _], columns: [from, to] } = step;
        math::scale_into(s, -self.beta[here], &out[0][from], &mut written[1][to]);
    }
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

/// What is kept of a head between its segments.
struct Kept<'m> {
    /// The state: `[K, V]` with erasure, otherwise transposed.
    state: &'m mut [f32],
    /// The gradient to the state, transposed.
    d_state: &'m mut [f32],
    /// One state per segment, transposed. With erasure it is the state before the segment; with a gate only, the state
    /// after it, without the write of the sequence's last token. Otherwise empty.
    states: &'m mut [f32],
    /// The vectors that are erased, `[T + 1, V]`; empty without erasure.
    w: &'m mut [f32],
    boundary: Boundary<'m>,
    gate_gradient: GateGradient,
}

impl<'m> Kept<'m> {
    /// The lengths of `states` and `w` for `tokens` tokens.
    fn sizes(shape: Shape, tokens: usize) -> [usize; 2] {
        let Shape { max_tokens, k, v, gates, erases, .. } = shape;
        let states = if erases || gates > 0 { tokens.div_ceil(max_tokens) * k * v } else { 0 };
        [states, if erases { (tokens + 1) * v } else { 0 }]
    }

    fn size(shape: Shape, tokens: usize) -> usize {
        Self::sizes(shape, tokens).iter().sum::<usize>()
            + 2 * shape.k * shape.v
            + shape.boundary_widths().iter().sum::<usize>()
    }

    #[inline(always)]
    fn new(shape: Shape, tokens: usize, rest: &mut &'m mut [f32]) -> Self {
        let Shape { k, v, gates, .. } = shape;
        let [states, w] = Self::sizes(shape, tokens);
        Self {
            state: take(rest, k * v),
            d_state: take(rest, k * v),
            states: take(rest, states),
            w: take(rest, w),
            boundary: Boundary::new(shape, rest),
            gate_gradient: GateGradient::new(gates, k),
        }
    }
}

/// Prefetches the rows that are gathered next and those that are written during the pass.
struct NextRows<'a, 't> {
    x: &'a Tokens<'t>,
    /// The head and the tokens of the batch that are gathered next.
    h: usize,
    tokens: Range<usize>,
    queries: bool,
    d_o: Option<&'a Rows<'t>>,
    /// Arrays of which the rows from `at` on are prefetched, one per token.
    arrays: [Option<RowAddresses>; 6],
    at: usize,
}

impl Prefetch for NextRows<'_, '_> {
    fn queue_rows(&self, i: usize, queue: &mut PrefetchQueue) {
        for array in self.arrays.iter().flatten() {
            array.queue_prefetch(self.at + i, queue);
        }
        let t = self.tokens.start + i;
        if t >= self.tokens.end {
            return;
        }
        self.x.queue_rows(t, self.h, self.queries, queue);
        if let Some(d_o) = self.d_o {
            queue.add(self.x.of_value(d_o, t, self.h));
        }
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

    /// The forward sweep over segment `j` without erasure: passes over the transposed state give `dq`. `next` is the
    /// head and the segment to prefetch.
    #[inline(always)]
    fn queries<S: Lanes>(
        &mut self,
        s: S,
        shape: Shape,
        rows: &mut Segment<'_>,
        kept: &mut Kept<'_>,
        j: usize,
        next: (usize, usize),
    ) {
        let (x, Shape { k, v, .. }) = (self.x, shape);
        let (total, tokens) = (self.range.len(), self.segment(j, shape));
        let (first, n) = (tokens.start, tokens.len());
        let read_first = x.bonus.is_some();
        let by = if self.defers_dq() { 1.0 } else { x.scale };
        // Rows that the backward sweep reads again stay in cache.
        let non_temporal = self.non_temporal && !self.defers_dq();
        rows.decay.clear();
        for r in 0..n {
            let t = self.range.start + first + r;
            self.push_token(s, shape, rows, (t, r));
            let (at, d_o) = (first + r + usize::from(read_first), &mut rows.d_o[r * v..(r + 1) * v]);
            if at < total { self.load_d_o(s, at, d_o) } else { d_o.fill(0.0) }
        }
        if x.g.is_some() && tokens.end == total {
            rows.k[(n - 1) * k..n * k].fill(0.0);
        }
        rows.decay.end();
        let prefetch = NextRows {
            x,
            h: next.0,
            tokens: self.batch_segment(next.1, shape),
            queries: false,
            d_o: Some(self.d_o),
            arrays: [Some(self.to.q.addresses()).filter(|_| !non_temporal), None, None, None, None, None],
            at: first,
        };
        let (cuts, pass) = (rows.decay.cuts(DecayAxis::Columns), (n, v, k, false));
        let (written, out) = ([&mut *rows.k], [&mut *rows.dq]);
        let mode = (self.isa, x.g.is_some());
        run_transposed(mode, pass, kept.state, cuts, [&*rows.v], written, [&*rows.d_o], out, &prefetch);
        if read_first {
            // The last row belongs to the first token of the next segment.
            scale(s, rows.decay.cumulative(n - 1), &mut rows.dq[(n - 1) * k..n * k]);
        }
        for r in 0..n {
            let at = first + r + usize::from(read_first);
            if at < total {
                math::scale_into_non_temporal(s, non_temporal, by, &rows.dq[r * k..(r + 1) * k], self.to.q.row(at));
            }
        }
        if !kept.states.is_empty() {
            kept.states[j * k * v..(j + 1) * k * v].copy_from_slice(kept.state);
        }
    }

    /// The forward sweep over segment `j` with erasure: computes `w` and stores the transposed state before the
    /// segment. `next` is the head and the segment to prefetch.
    #[inline(always)]
    fn erased<S: Lanes>(
        &mut self,
        s: S,
        shape: Shape,
        rows: &mut Segment<'_>,
        kept: &mut Kept<'_>,
        j: usize,
        next: (usize, usize),
    ) {
        let (x, h, Shape { k, v, general, .. }) = (self.x, self.h, shape);
        let Range { start: first, end } = self.segment(j, shape);
        let (n, following) = (end - first, self.range.start + end);
        transpose(s, kept.state, v, &mut kept.states[j * k * v..(j + 1) * k * v]);
        rows.decay.clear();
        for r in 0..n {
            let t = self.range.start + first + r;
            self.push_token(s, shape, rows, (t, r));
            rows.beta[r] = x.beta(t, h);
            if general {
                x.b(s, t, h, &mut rows.b[r * k..(r + 1) * k]);
                scale(s, rows.decay.inverse(r), &mut rows.b[r * k..(r + 1) * k]);
            }
            if r > 0 {
                let a = &mut rows.a[(r - 1) * k..r * k];
                x.a_with(s, t, h, rows.decay.entry(r), a);
                if general {
                    scale(s, rows.decay.cumulative(r - 1), a);
                }
            }
        }
        let last = &mut rows.a[(n - 1) * k..n * k];
        if following < self.range.end {
            x.a(s, following, h, last);
            scale(s, rows.decay.cumulative(n - 1), last);
        } else {
            last.fill(0.0)
        }
        rows.decay.end();
        let prefetch = NextRows {
            x,
            h: next.0,
            tokens: self.batch_segment(next.1, shape),
            queries: false,
            d_o: None,
            arrays: [None; 6],
            at: 0,
        };
        let (known, out) = kept.w.split_at_mut((first + 1) * v);
        let erased = &known[first * v..];
        let cuts = rows.decay.cuts(DecayAxis::Rows);
        let pass = (n, k, v, false);
        if general {
            math::copy(s, erased, &mut rows.moved[..v]);
            let (write, written) = ([&*rows.k, &*rows.b], [&mut *rows.v, &mut *rows.moved]);
            run_pass(self.isa, pass, kept.state, cuts, write, written, [&*rows.a], [out], Move, &prefetch);
        } else {
            correct(s, rows.beta[0], erased, &mut rows.v[..v]);
            let carry = Correct { beta: rows.beta };
            run_pass(self.isa, pass, kept.state, cuts, [&*rows.k], [&mut *rows.v], [&*rows.a], [out], carry, &prefetch);
        }
    }

    /// The backward sweep over segment `j`, which computes all other gradients; `last` says whether it is the
    /// sequence's last segment. The remaining argument is the next head, its `dq`, and its segment if there is one, to
    /// prefetch.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "one place calls it")]
    fn sweep<S: Lanes>(
        &mut self,
        s: S,
        shape: Shape,
        rows: &mut Segment<'_>,
        kept: &mut Kept<'_>,
        (j, last): (usize, bool),
        (next, queries_of_next, segment): (usize, RowAddresses, Option<usize>),
    ) {
        let (x, isa) = (self.x, self.isa);
        let Shape { k, v, gates, erases, general, .. } = shape;
        let (read_first, own) = (x.bonus.is_some(), x.beta.is_some());
        let (deferred, non_temporal) = (self.defers_dq() && !erases, self.non_temporal);
        let shift = usize::from(read_first);
        let tokens = self.segment(j, shape);
        let (first, n) = (tokens.start, tokens.len());
        rows.begin(s, n, shape, Some(&kept.boundary).filter(|_| !last));
        self.gather(s, shape, rows, first, kept.w);
        let next_tokens = segment.map_or(0..0, |segment| self.batch_segment(segment, shape));
        let prefetch = NextRows {
            x,
            h: next,
            queries: true,
            d_o: Some(self.d_o),
            arrays: [segment.filter(|_| deferred).map(|_| queries_of_next), None, None, None, None, None],
            at: next_tokens.start.saturating_sub(self.range.start),
            tokens: next_tokens,
        };
        // `dv` and `dw`, from the gradient to the state.
        let cuts = rows.decay.cuts(DecayAxis::Rows);
        let queries = &rows.q[shift * k..];
        let d_out = &mut rows.d_o[shift * v..];
        let pass = (n, k, v, true);
        if own {
            let carry = CorrectBackward { beta: rows.beta };
            let written = [d_out, &mut rows.dw[v..]];
            let (write, read) = ([queries, &rows.a[k..]], [&*rows.k]);
            run_pass(isa, pass, self.d_state, cuts, write, written, read, [&mut *rows.dv], carry, &prefetch);
            math::scale_into(s, -rows.beta[0], &rows.dv[..v], &mut rows.dw[..v]);
        } else if general {
            let written = [d_out, &mut rows.dw[v..]];
            let (write, read) = ([queries, &rows.a[k..]], [&*rows.k, &*rows.b]);
            let out = [&mut *rows.dv, &mut *rows.moved];
            run_pass(isa, pass, self.d_state, cuts, write, written, read, out, Move, &prefetch);
            math::copy(s, &rows.moved[..v], &mut rows.dw[..v]);
        } else {
            let out = [&mut *rows.dv];
            run_pass(isa, pass, self.d_state, cuts, [queries], [d_out], [&*rows.k], out, Independent, &prefetch);
        }
        // `dq` and `da`, from the state before the segment.
        let state = match kept.states.len() {
            0 => &mut *kept.state,
            _ => &mut kept.states[j * k * v..(j + 1) * k * v],
        };
        let erased = if erases { &kept.w[first * v..(first + n) * v] } else { &[] };
        let mode = (isa, x.g.is_some());
        if erases {
            read(s, state, &rows.dw[..v], &mut rows.da[..k]);
            // The gate's gradient starts from the state without the last token's writes.
            let exclude_last = mode.1 && last;
            if exclude_last {
                kept.boundary.clear_last_write(s, shape, rows);
            }
            let cuts = rows.decay.cuts(DecayAxis::Columns);
            let (read, out) = ([&*rows.d_o, &rows.dw[v..]], [&mut *rows.dq, &mut rows.da[k..]]);
            let pass = (n, v, k, false);
            if general {
                let (write, written) = ([&*rows.v, erased], [&mut *rows.k, &mut *rows.b]);
                run_transposed(mode, pass, state, cuts, write, written, read, out, &NoPrefetch);
            } else {
                run_transposed(mode, pass, state, cuts, [&*rows.v], [&mut *rows.k], read, out, &NoPrefetch);
            }
            if exclude_last {
                kept.boundary.restore_last_write(s, shape, rows);
            }
        }
        let cuts = rows.decay.cuts(DecayAxis::Columns);
        if x.g.is_some() {
            kept.gate_gradient.start(s, [state, kept.d_state], k);
            if erases {
                kept.gate_gradient.add_erasure(s, nth(rows.a, n, k), nth(rows.da, n, k));
            }
        }
        // `dk` and `db`, from the transposed gradient to the state.
        let prefetch = NextRows {
            x,
            h: self.h,
            tokens: 0..0,
            queries: false,
            d_o: None,
            arrays: [
                Some(self.to.q.addresses()).filter(|_| erases && !non_temporal),
                Some(self.to.k.addresses()).filter(|_| !non_temporal),
                Some(self.to.v.addresses()).filter(|_| !non_temporal),
                Some(self.to.g.addresses()).filter(|_| !non_temporal || gates < 2),
                Some(self.to.a.addresses()).filter(|_| !non_temporal),
                Some(self.to.b.addresses()).filter(|_| !non_temporal),
            ],
            at: first,
        };
        let d_out = &rows.d_o[shift * v..];
        let queries = &mut rows.q[shift * k..];
        let pass = (n, v, k, true);
        if erases {
            let (write, written) = ([d_out, &rows.dw[v..]], [queries, &mut rows.a[k..]]);
            if general {
                let (read, out) = ([&*rows.v, erased], [&mut *rows.dk, &mut *rows.db]);
                run_transposed(mode, pass, kept.d_state, cuts, write, written, read, out, &prefetch);
            } else {
                let out = [&mut *rows.dk];
                run_transposed(mode, pass, kept.d_state, cuts, write, written, [&*rows.v], out, &prefetch);
            }
        } else {
            let out = [&mut *rows.dk];
            run_transposed(mode, pass, kept.d_state, cuts, [d_out], [queries], [&*rows.v], out, &prefetch);
        }
        let mut products = None;
        for r in (0..n).rev() {
            self.token(s, shape, rows, (first + r, r), erased, (&mut kept.gate_gradient, &mut products));
        }
        rows.store_boundary(s, &mut kept.boundary);
    }

    /// Gathers and scales the rows of the tokens from `first` on.
    #[inline(always)]
    fn gather<S: Lanes>(&mut self, s: S, shape: Shape, rows: &mut Segment<'_>, first: usize, w: &[f32]) {
        let (x, h, Shape { k, v, erases, general, .. }) = (self.x, self.h, shape);
        let (deferred, read_first) = (self.defers_dq() && !erases, x.bonus.is_some());
        rows.decay.clear();
        for r in 0..rows.tokens {
            let (at, t) = (first + r, self.range.start + first + r);
            let (of_key, of_value) = (r * k..(r + 1) * k, r * v..(r + 1) * v);
            self.push_token(s, shape, rows, (t, r));
            let before = r.checked_sub(1).map_or(&[][..], |before| rows.decay.cumulative(before));
            let by = if read_first { before } else { rows.decay.cumulative(r) };
            scale_twice_into(s, x.scale, by, x.q(t, h), &mut rows.q[of_key.clone()]);
            self.load_d_o(s, at, &mut rows.d_o[of_value.clone()]);
            rows.beta[r] = x.beta(t, h);
            if deferred {
                math::copy(s, self.to.q.row(at), &mut rows.dq[of_key.clone()]);
            }
            if erases {
                x.a_with(s, t, h, rows.decay.entry(r), &mut rows.a[of_key.clone()]);
            }
            if general {
                let before = r.checked_sub(1).map_or(&[][..], |before| rows.decay.cumulative(before));
                scale(s, before, &mut rows.a[of_key.clone()]);
                x.b(s, t, h, &mut rows.b[of_key.clone()]);
                scale(s, rows.decay.inverse(r), &mut rows.b[of_key]);
            } else if erases {
                correct(s, rows.beta[r], &w[at * v..(at + 1) * v], &mut rows.v[of_value]);
            }
        }
        rows.finish(s, shape, read_first);
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
