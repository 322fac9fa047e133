//! The forward sweep over a segment: the gradient of the queries, or with erasure, the vectors that are erased.

use std::ops::Range;

use longreach_simd::{Lanes, math};

use super::super::segment::{Segment, Shape};
use super::kept::{Kept, NextRows};
use super::{Head, run_transposed};
use crate::fast_weights::decay::{DecayAxis, scale};
use crate::fast_weights::forward::{Correct, Move, correct};
use crate::fast_weights::pass::{run_pass, transpose};

impl Head<'_, '_> {
    /// The forward sweep over segment `j` without erasure: passes over the transposed state give `dq`. `next` is the
    /// head and the segment to prefetch.
    #[inline(always)]
    pub(super) fn queries<S: Lanes>(
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
    pub(super) fn erased<S: Lanes>(
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
}
