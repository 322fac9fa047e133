//! The backward sweep over a segment: all gradients but those of the queries without erasure.

use longreach_simd::split::RowAddresses;
use longreach_simd::{Lanes, math};

use super::super::segment::{Segment, Shape};
use super::kept::{Kept, NextRows};
use super::{Head, nth, run_transposed};
use crate::fast_weights::decay::{DecayAxis, scale, scale_twice_into};
use crate::fast_weights::forward::{Move, correct};
use crate::fast_weights::pass::{Carry, Independent, NoPrefetch, Step, run_pass};
use crate::one_token::read;

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

impl Head<'_, '_> {
    /// The backward sweep over segment `j`, which computes all other gradients; `last` says whether it is the
    /// sequence's last segment. The remaining argument is the next head, its `dq`, and its segment if there is one, to
    /// prefetch.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "one place calls it")]
    pub(super) fn sweep<S: Lanes>(
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
