//! One head of one sequence.

use std::ops::Range;
use std::sync::atomic::Ordering;

use longreach_simd::cache::{Soon, settle};
use longreach_simd::split::Part;
use longreach_simd::team::Scratch;
use longreach_simd::{Isa, Kernel, Lanes, math};

use super::ByHead;
use super::segment::{Segment, Shape, Shares, Through};
use crate::fast_weights::Tokens;
use crate::fast_weights::decay::{Along, Cuts, scale, scale_into, scale_twice_into, take};
use crate::fast_weights::forward::{Correct, Move, correct};
use crate::fast_weights::pass::{Ask, Carry, Nothing, Pass, Step, read, transpose};
use crate::sequences::Rows;

/// One head of one sequence.
pub(super) struct Head<'a, 'o> {
    pub(super) x: &'a Tokens<'a>,
    pub(super) isa: Isa,
    pub(super) d_o: &'a Rows<'a>,
    /// What rows of that are multiplied with, `[B T, H]`.
    pub(super) by: Option<&'a [f32]>,
    pub(super) range: Range<usize>,
    pub(super) h: usize,
    /// Before the first token, `[K, V]`.
    pub(super) state: &'a [f32],
    /// On entry the gradient to the last state, on return to the first.
    pub(super) d_state: &'o mut [f32],
    pub(super) to: ByHead<Part<'o>>,
    /// Whether that is written past the caches.
    pub(super) past: bool,
}

/// The gradient to what was erased goes to the token before: by the own key, it is that to the value, times `−β`.
struct Back<'a> {
    beta: &'a [f32],
}

impl Carry<2, 1> for Back<'_> {
    #[inline(always)]
    fn carry<S: Lanes>(&self, s: S, step: Step, written: &mut [&mut [f32]; 2], out: &[&mut [f32]; 1]) {
        let Step { tokens: [here, _], columns: [from, to] } = step;
        math::scale_into(s, -self.beta[here], &out[0][from], &mut written[1][to]);
    }
}

/// The rows that are gathered next, and those that are written soon.
struct Coming<'a, 't, 'o> {
    x: &'a Tokens<'t>,
    h: usize,
    tokens: Range<usize>,
    queries: bool,
    d_o: Option<&'a Rows<'t>>,
    /// Rows of these from `at` on.
    parts: [Option<&'a Part<'o>>; 6],
    at: usize,
}

impl Ask for Coming<'_, '_, '_> {
    fn rows(&self, i: usize, soon: &mut Soon) {
        for part in self.parts.iter().flatten().filter(|part| self.at + i < part.rows()) {
            part.soon(self.at + i, 0..part.width(), soon);
        }
        let t = self.tokens.start + i;
        if t >= self.tokens.end {
            return;
        }
        self.x.rows(t, self.h, self.queries, soon);
        if let Some(d_o) = self.d_o {
            soon.add(self.x.of_value(d_o, t, self.h));
        }
    }
}

impl Kernel for Head<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let (k, v, gates) = (self.x.dims.k, self.x.dims.v, self.x.gate_width());
        let total = self.range.len();
        if total == 0 {
            return;
        }
        let (erases, general) = (self.x.erases(), self.x.erase.is_some());
        let shape = Shape { most: Shape::tokens(k, v).min(total), k, v, gates, erases, general };
        // A state a segment: before it where something is erased, after it where a gate asks for it.
        let states = if erases || self.x.g.is_some() { total.div_ceil(shape.most) * k * v } else { 0 };
        let of_erasing = if erases { (total + 1) * v } else { 0 };
        let scratch = &mut Scratch::new(shape.size() + states + of_erasing + 2 * k * v + 2 * k.max(v));
        let mut rest = &mut scratch[..];
        let mut rows = Segment::new(shape, &mut rest);
        let w = take(&mut rest, of_erasing);
        let matrix = take(&mut rest, k * v);
        let other = take(&mut rest, k * v);
        let row = take(&mut rest, k.max(v));
        let product = take(&mut rest, k.max(v));
        let states = rest;
        if erases {
            self.erased(s, shape, &mut rows, matrix, states, w, row);
        } else {
            self.queries(s, shape, &mut rows, matrix, states, row);
        }
        self.sweep(s, shape, &mut rows, [matrix, other], states, w, [row, product]);
        if rows.runs.above {
            self.x.above.store(true, Ordering::Relaxed);
        }
        if self.past {
            settle();
        }
    }
}

impl<'a> Head<'a, '_> {
    /// The gradient to the output of token `at` of the head.
    #[inline(always)]
    fn dout<S: Lanes>(&self, s: S, at: usize, out: &mut [f32]) {
        let t = self.range.start + at;
        let row = self.x.of_value(self.d_o, t, self.h);
        match self.by {
            None => math::copy(s, row, out),
            Some(by) => math::scale_into(s, by[t * self.x.dims.h + self.h], row, out),
        }
    }

    /// What token `t` writes and what its gate leaves, as row `r` of the segment: the next one.
    #[inline(always)]
    fn written<S: Lanes>(&self, s: S, shape: Shape, rows: &mut Segment<'_>, (t, r): (usize, usize)) {
        let (x, h, Shape { k, v, gates, .. }) = (self.x, self.h, shape);
        rows.runs.push(s, x.gates(t, h), &mut rows.factors[r * gates..(r + 1) * gates], false);
        x.key(s, t, h, rows.runs.grown(r), &mut rows.k[r * k..(r + 1) * k]);
        math::copy(s, x.v(t, h), &mut rows.v[r * v..(r + 1) * v]);
    }

    /// Whether gradients to queries are looked at again, and scaled only then.
    fn again(&self) -> bool {
        self.x.g.is_some() || self.x.bonus.is_some() || self.x.erases()
    }

    /// Forwards, where nothing is erased: the states, transposed, give the gradients to queries.
    #[inline(always)]
    fn queries<S: Lanes>(
        &mut self,
        s: S,
        shape: Shape,
        rows: &mut Segment<'_>,
        matrix: &mut [f32],
        states: &mut [f32],
        row: &mut [f32],
    ) {
        let (x, h, Shape { most, k, v, .. }) = (self.x, self.h, shape);
        let total = self.range.len();
        let early = x.bonus.is_some();
        let by = if self.again() { 1.0 } else { x.scale };
        // Not what is read again.
        let past = self.past && !self.again();
        transpose(s, self.state, v, matrix);
        if early {
            self.dout(s, 0, &mut rows.d_o[..v]);
            read(s, matrix, &rows.d_o[..v], &mut row[..k]);
            math::copy(s, &row[..k], self.to.q.row(0));
        }
        for (j, first) in (0..total).step_by(most).enumerate() {
            let n = most.min(total - first);
            rows.runs.clear();
            for r in 0..n {
                let t = self.range.start + first + r;
                self.written(s, shape, rows, (t, r));
                let (at, d_o) = (first + r + usize::from(early), &mut rows.d_o[r * v..(r + 1) * v]);
                if at < total { self.dout(s, at, d_o) } else { d_o.fill(0.0) }
            }
            rows.runs.end();
            let next = (self.range.start + first + n).min(self.range.end);
            let ask = Coming {
                x,
                h,
                tokens: next..self.range.end.min(next + most),
                queries: false,
                d_o: Some(self.d_o),
                parts: [Some(&self.to.q).filter(|_| !past), None, None, None, None, None],
                at: first,
            };
            let (cuts, pass) = (rows.runs.cuts(Along::Columns), (n, v, k, false));
            let (written, out) = ([&mut *rows.k], [&mut *rows.dq]);
            over(self.isa, pass, matrix, cuts, [&*rows.v], written, [&*rows.d_o], out, Nothing, &ask);
            if early {
                // It belongs to the segment behind.
                scale(s, rows.runs.left(n - 1), &mut rows.dq[(n - 1) * k..n * k]);
            }
            for r in 0..n {
                let at = first + r + usize::from(early);
                if at < total {
                    math::scale_past(s, past, by, &rows.dq[r * k..(r + 1) * k], self.to.q.row(at));
                }
            }
            if x.g.is_some() {
                states[j * k * v..(j + 1) * k * v].copy_from_slice(matrix);
            }
        }
    }

    /// Forwards, where something is erased: what that is, `w`, and the state before each segment, transposed.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "one place calls it")]
    fn erased<S: Lanes>(
        &mut self,
        s: S,
        shape: Shape,
        rows: &mut Segment<'_>,
        matrix: &mut [f32],
        states: &mut [f32],
        w: &mut [f32],
        row: &mut [f32],
    ) {
        let (x, h, Shape { most, k, v, general, .. }) = (self.x, self.h, shape);
        let total = self.range.len();
        matrix.copy_from_slice(self.state);
        x.erasing(s, self.range.start, h, &mut row[..k]);
        read(s, matrix, &row[..k], &mut w[..v]);
        for (j, first) in (0..total).step_by(most).enumerate() {
            let n = most.min(total - first);
            transpose(s, matrix, v, &mut states[j * k * v..(j + 1) * k * v]);
            rows.runs.clear();
            for r in 0..n {
                let t = self.range.start + first + r;
                self.written(s, shape, rows, (t, r));
                rows.beta[r] = x.beta(t, h);
                if general {
                    x.b(s, t, h, &mut rows.b[r * k..(r + 1) * k]);
                    scale(s, rows.runs.grown(r), &mut rows.b[r * k..(r + 1) * k]);
                }
                if r > 0 {
                    let a = &mut rows.a[(r - 1) * k..r * k];
                    x.erasing_by(s, t, h, rows.runs.entry(r), a);
                    if general {
                        scale(s, rows.runs.left(r - 1), a);
                    }
                }
            }
            let next = self.range.start + first + n;
            let last = &mut rows.a[(n - 1) * k..n * k];
            if next < self.range.end {
                x.erasing(s, next, h, last);
                scale(s, rows.runs.left(n - 1), last);
            } else {
                last.fill(0.0)
            }
            rows.runs.end();
            let ask = Coming {
                x,
                h,
                tokens: next..self.range.end.min(next + most),
                queries: false,
                d_o: None,
                parts: [None; 6],
                at: 0,
            };
            let (known, out) = w.split_at_mut((first + 1) * v);
            let erased = &known[first * v..];
            let cuts = rows.runs.cuts(Along::Rows);
            let pass = (n, k, v, false);
            if general {
                math::copy(s, erased, &mut rows.moved[..v]);
                let (write, written) = ([&*rows.k, &*rows.b], [&mut *rows.v, &mut *rows.moved]);
                over(self.isa, pass, matrix, cuts, write, written, [&*rows.a], [out], Move, &ask);
            } else {
                correct(s, rows.beta[0], erased, &mut rows.v[..v]);
                let carry = Correct { beta: rows.beta };
                over(self.isa, pass, matrix, cuts, [&*rows.k], [&mut *rows.v], [&*rows.a], [out], carry, &ask);
            }
        }
    }

    /// Back to the first token: all other gradients.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "one place calls it")]
    fn sweep<S: Lanes>(
        &mut self,
        s: S,
        shape: Shape,
        rows: &mut Segment<'_>,
        [matrix, transposed]: [&mut [f32]; 2],
        states: &mut [f32],
        w: &[f32],
        [row, product]: [&mut [f32]; 2],
    ) {
        let (x, h, isa) = (self.x, self.h, self.isa);
        let Shape { most, k, v, gates, erases, general } = shape;
        let (early, own, total) = (x.bonus.is_some(), x.beta.is_some(), self.range.len());
        let (again, past) = (self.again() && !erases, self.past);
        let shift = usize::from(early);
        let mut through = Through::new(if x.g.is_some() { gates } else { 0 }, k);
        // The gradient to the state, `[K, V]` and `[V, K]`: behind a segment that times what the next token's gate leaves.
        transpose(s, self.d_state, v, transposed);
        rows.tokens = 0;
        for j in (0..total.div_ceil(most)).rev() {
            let first = j * most;
            let n = most.min(total - first);
            rows.before(s, n, shape);
            self.gather(s, shape, rows, first, w);
            let before = first.saturating_sub(most);
            let ask = Coming {
                x,
                h,
                tokens: self.range.start + before..self.range.start + first,
                queries: true,
                d_o: Some(self.d_o),
                parts: [Some(&self.to.q).filter(|_| again), None, None, None, None, None],
                at: before,
            };
            // The values, and what was erased.
            let cuts = rows.runs.cuts(Along::Rows);
            let queries = &rows.q[shift * k..];
            let d_out = &mut rows.d_o[shift * v..];
            let pass = (n, k, v, true);
            if own {
                let carry = Back { beta: rows.beta };
                let written = [d_out, &mut rows.dw[v..]];
                let (write, read) = ([queries, &rows.a[k..]], [&*rows.k]);
                over(isa, pass, self.d_state, cuts, write, written, read, [&mut *rows.dv], carry, &ask);
                math::scale_into(s, -rows.beta[0], &rows.dv[..v], &mut rows.dw[..v]);
            } else if general {
                let written = [d_out, &mut rows.dw[v..]];
                let (write, read) = ([queries, &rows.a[k..]], [&*rows.k, &*rows.b]);
                let out = [&mut *rows.dv, &mut *rows.moved];
                over(isa, pass, self.d_state, cuts, write, written, read, out, Move, &ask);
                math::copy(s, &rows.moved[..v], &mut rows.dw[..v]);
            } else {
                let out = [&mut *rows.dv];
                over(isa, pass, self.d_state, cuts, [queries], [d_out], [&*rows.k], out, Nothing, &ask);
            }
            let cuts = rows.runs.cuts(Along::Columns);
            // The queries, and what reads what is erased, from the state before the segment on.
            let state = match states.len() {
                0 => &mut matrix[..],
                _ => &mut states[j * k * v..(j + 1) * k * v],
            };
            let erased = if erases { &w[first * v..(first + n) * v] } else { &[] };
            if erases {
                read(s, state, &rows.dw[..v], &mut rows.da[..k]);
                let (read, out) = ([&*rows.d_o, &rows.dw[v..]], [&mut *rows.dq, &mut rows.da[k..]]);
                let pass = (n, v, k, false);
                if general {
                    let (write, written) = ([&*rows.v, erased], [&mut *rows.k, &mut *rows.b]);
                    over(isa, pass, state, cuts, write, written, read, out, Nothing, &Nothing);
                } else {
                    over(isa, pass, state, cuts, [&*rows.v], [&mut *rows.k], read, out, Nothing, &Nothing);
                }
            }
            if x.g.is_some() {
                through.start([state, transposed], k);
                if own {
                    through.add(s, nth(rows.a, n, k), nth(rows.da, n, k));
                }
            }
            // The keys, and where the erased goes.
            let ask = Coming {
                x,
                h,
                tokens: 0..0,
                queries: false,
                d_o: None,
                parts: [
                    Some(&self.to.q).filter(|_| erases && !past),
                    Some(&self.to.k).filter(|_| !past),
                    Some(&self.to.v).filter(|_| !past),
                    Some(&self.to.g),
                    Some(&self.to.a).filter(|_| !past),
                    Some(&self.to.b).filter(|_| !past),
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
                    over(isa, pass, transposed, cuts, write, written, read, out, Nothing, &ask);
                } else {
                    let out = [&mut *rows.dk];
                    over(isa, pass, transposed, cuts, write, written, [&*rows.v], out, Nothing, &ask);
                }
            } else {
                let out = [&mut *rows.dk];
                over(isa, pass, transposed, cuts, [d_out], [queries], [&*rows.v], out, Nothing, &ask);
            }
            for r in (0..n).rev() {
                self.token(s, shape, rows, (first + r, r), erased, &mut through, [&mut *row, &mut *product]);
            }
        }
        // What the first token read before it was written, which no token before it takes up.
        if erases {
            add_outer(s, &rows.a[..k], &rows.dw[..v], self.d_state);
        }
        if early {
            add_outer(s, &rows.q[..k], &rows.d_o[..v], self.d_state);
        }
    }

    /// The rows of the tokens from `first` on.
    #[inline(always)]
    fn gather<S: Lanes>(&mut self, s: S, shape: Shape, rows: &mut Segment<'_>, first: usize, w: &[f32]) {
        let (x, h, Shape { k, v, erases, general, .. }) = (self.x, self.h, shape);
        let (read_again, early) = (self.again() && !erases, x.bonus.is_some());
        rows.runs.clear();
        for r in 0..rows.tokens {
            let (at, t) = (first + r, self.range.start + first + r);
            let (of_key, of_value) = (r * k..(r + 1) * k, r * v..(r + 1) * v);
            self.written(s, shape, rows, (t, r));
            let before = r.checked_sub(1).map_or(&[][..], |before| rows.runs.left(before));
            let by = if early { before } else { rows.runs.left(r) };
            scale_twice_into(s, x.scale, by, x.q(t, h), &mut rows.q[of_key.clone()]);
            self.dout(s, at, &mut rows.d_o[of_value.clone()]);
            rows.beta[r] = x.beta(t, h);
            if read_again {
                math::copy(s, self.to.q.row(at), &mut rows.dq[of_key.clone()]);
            }
            if erases {
                x.erasing_by(s, t, h, rows.runs.entry(r), &mut rows.a[of_key.clone()]);
            }
            if general {
                let before = r.checked_sub(1).map_or(&[][..], |before| rows.runs.left(before));
                scale(s, before, &mut rows.a[of_key.clone()]);
                x.b(s, t, h, &mut rows.b[of_key.clone()]);
                scale(s, rows.runs.grown(r), &mut rows.b[of_key]);
            } else if erases {
                correct(s, rows.beta[r], &w[at * v..(at + 1) * v], &mut rows.v[of_value]);
            }
        }
        rows.ready(s, shape, early);
    }

    /// What is left to be done for a token, `at` in the sequence and `r` in the segment: gates, strengths, bonus; and all goes where it belongs.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "one place calls it")]
    fn token<S: Lanes>(
        &mut self,
        s: S,
        shape: Shape,
        rows: &mut Segment<'_>,
        (at, r): (usize, usize),
        erased: &[f32],
        through: &mut Through,
        [row, product]: [&mut [f32]; 2],
    ) {
        let (x, h, Shape { k, v, gates, erases, general, .. }) = (self.x, self.h, shape);
        let (of_key, of_value, of_gate) = (r * k..(r + 1) * k, r * v..(r + 1) * v, r * gates..(r + 1) * gates);
        let t = self.range.start + at;
        let (own, early) = (erases && !general, x.bonus.is_some());
        let by_key = &mut product[..k];
        if x.g.is_some() {
            let shares = Shares {
                early,
                q: [nth(rows.q, r, k), nth(rows.dq, r, k)],
                k: [nth(rows.k, r, k), nth(rows.dk, r, k)],
                own: if own { Some([nth(rows.a, r, k), nth(rows.da, r, k)]) } else { None },
                general: match general {
                    false => None,
                    true => Some([[nth(rows.a, r, k), nth(rows.da, r, k)], [nth(rows.b, r, k), nth(rows.db, r, k)]]),
                },
            };
            let gate = (&rows.factors[of_gate], rows.runs.is_cut(r));
            through.token(s, gate, shares, self.to.g.row(at));
            // From here on all is as it is, not as it was scaled.
            let (here, grown) = (rows.runs.left(r), rows.runs.grown(r));
            let before = r.checked_sub(1).map(|before| (rows.runs.left(before), rows.runs.grown(before)));
            let (before, before_grown) = before.unwrap_or_default();
            scale(s, grown, &mut rows.dk[of_key.clone()]);
            if early {
                scale(s, before, &mut rows.dq[of_key.clone()]);
                scale(s, before_grown, &mut rows.q[of_key.clone()]);
                scale(s, here, &mut rows.k[of_key.clone()]);
            } else {
                scale(s, here, &mut rows.dq[of_key.clone()]);
            }
            if general {
                scale(s, before, &mut rows.da[of_key.clone()]);
                scale(s, grown, &mut rows.db[of_key.clone()]);
            }
        }
        if own {
            scale_into(s, rows.runs.entry(r), &rows.da[of_key.clone()], by_key);
        }
        let (dq, dk, past) = (&mut rows.dq[of_key.clone()], &mut rows.dk[of_key.clone()], self.past);
        if let Some(bonus) = &x.bonus {
            let u = &bonus[h * k..(h + 1) * k];
            let (value, d_out) = (&rows.v[of_value.clone()], &rows.d_o[of_value.clone()]);
            let keys = [u, &rows.k[of_key.clone()], &rows.q[of_key.clone()]];
            let key_read = add_bonus(s, math::dot(s, value, d_out), keys, [dq, dk, self.to.bonus.row(0)]);
            math::axpy(s, key_read, d_out, &mut rows.dv[of_value.clone()]);
        }
        if self.again() {
            math::scale_past(s, past, x.scale, dq, self.to.q.row(at));
        }
        if own {
            math::axpy(s, 1.0, by_key, dk);
            let (beta, found) = (rows.beta[r], &rows.dv[of_value.clone()]);
            math::scale_past(s, past, beta, found, self.to.v.row(at));
            // Times what was written before the strength.
            let gap = &mut row[..v];
            math::copy(s, x.v(t, h), gap);
            math::axpy(s, -1.0, &erased[of_value], gap);
            self.to.beta.row(at)[0] = math::dot(s, found, gap);
        } else {
            math::scale_past(s, past, 1.0, &rows.dv[of_value.clone()], self.to.v.row(at));
            if general {
                math::scale_past(s, past, 1.0, &rows.da[of_key.clone()], self.to.a.row(at));
                math::scale_past(s, past, 1.0, &rows.db[of_key], self.to.b.row(at));
            }
        }
        math::scale_past(s, past, 1.0, dk, self.to.k.row(at));
    }
}

/// What the bonus tells queries, keys and itself, given what the value reads of the gradient to the output; what queries read of keys.
#[inline(always)]
fn add_bonus<S: Lanes>(s: S, value_read: f32, [u, k, q]: [&[f32]; 3], [dq, dk, du]: [&mut [f32]; 3]) -> f32 {
    let (by, mut key_read) = (s.splat(value_read), s.splat(0.0));
    let inputs = u.chunks(S::LANES).zip(k.chunks(S::LANES)).zip(q.chunks(S::LANES));
    let outputs = dq.chunks_mut(S::LANES).zip(dk.chunks_mut(S::LANES)).zip(du.chunks_mut(S::LANES));
    for (((u, k), q), ((dq, dk), du)) in inputs.zip(outputs) {
        let (u, k, q) = (s.load_part(u), s.load_part(k), s.load_part(q));
        let (weighed, told) = (s.mul(u, k), s.mul(by, q));
        key_read = s.fma(weighed, q, key_read);
        s.store_part(dq, s.fma(by, weighed, s.load_part(dq)));
        s.store_part(dk, s.fma(told, u, s.load_part(dk)));
        s.store_part(du, s.fma(told, k, s.load_part(du)));
    }
    s.sum(key_read)
}

/// Row `r`.
#[inline(always)]
fn nth(rows: &[f32], r: usize, width: usize) -> &[f32] {
    &rows[r * width..(r + 1) * width]
}

/// `X += u yᵀ`
#[inline(always)]
fn add_outer<S: Lanes>(s: S, u: &[f32], y: &[f32], matrix: &mut [f32]) {
    for (row, u) in matrix.chunks_exact_mut(y.len().max(1)).zip(u) {
        math::axpy(s, *u, y, row);
    }
}

/// A pass: so many tokens, rows and columns, and whether the last token comes first.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a pass has so many parts")]
fn over<C: Carry<W, P>, const W: usize, const P: usize>(
    isa: Isa,
    (tokens, rows, columns, back): (usize, usize, usize, bool),
    matrix: &mut [f32],
    cuts: Cuts<'_>,
    write: [&[f32]; W],
    written: [&mut [f32]; W],
    read: [&[f32]; P],
    out: [&mut [f32]; P],
    carry: C,
    ask: &dyn Ask,
) {
    isa.run(Pass { tokens, rows, columns, matrix, back, cuts, write, written, read, out, carry, ask });
}
