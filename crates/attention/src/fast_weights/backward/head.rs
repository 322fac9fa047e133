//! Some heads of one sequence, a segment of each in turn: a token's rows of them are one piece of memory.

use std::ops::Range;
use std::sync::atomic::Ordering;

use longreach_simd::cache::{PrefetchQueue, store_fence};
use longreach_simd::split::{Part, RowAddresses};
use longreach_simd::team::Scratch;
use longreach_simd::{Isa, Kernel, Lanes, math};

use super::ByHead;
use super::segment::{Behind, Segment, Shape, Through};
use crate::fast_weights::Tokens;
use crate::fast_weights::decay::{Along, Cuts, scale, scale_twice_into, take};
use crate::fast_weights::forward::{Correct, Move, correct};
use crate::fast_weights::pass::{Ask, Before, Carry, Nothing, Step, over, transpose};
use crate::one_token::read;
use crate::sequences::Rows;

/// Some heads of one sequence.
pub(super) struct Heads<'a, 'o>(pub(super) Vec<Head<'a, 'o>>);

/// One of them.
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

/// As [`over`], a pass over a transposed matrix: where there is a gate, a token reads before it writes.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a pass has so many parts")]
fn over_transposed<const W: usize, const P: usize>(
    (isa, gated): (Isa, bool),
    pass: (usize, usize, usize, bool),
    matrix: &mut [f32],
    cuts: Cuts<'_>,
    write: [&[f32]; W],
    written: [&mut [f32]; W],
    read: [&[f32]; P],
    out: [&mut [f32]; P],
    ask: &dyn Ask,
) {
    match gated {
        true => over(isa, pass, matrix, cuts, write, written, read, out, Before, ask),
        false => over(isa, pass, matrix, cuts, write, written, read, out, Nothing, ask),
    }
}

/// What is kept of a head between its segments.
struct Kept<'m> {
    /// `[K, V]` where something is erased, or else transposed.
    state: &'m mut [f32],
    /// The gradient to it, transposed.
    d_state: &'m mut [f32],
    /// A state a segment, transposed: before it where something is erased, after it where a gate asks for it, but for the last token's write; or none.
    states: &'m mut [f32],
    /// What was erased, `[T + 1, V]`.
    w: &'m mut [f32],
    behind: Behind<'m>,
    through: Through,
}

impl<'m> Kept<'m> {
    /// Numbers in `states` and `w`, for so many tokens.
    fn sizes(shape: Shape, tokens: usize) -> [usize; 2] {
        let Shape { most, k, v, gates, erases, .. } = shape;
        let states = if erases || gates > 0 { tokens.div_ceil(most) * k * v } else { 0 };
        [states, if erases { (tokens + 1) * v } else { 0 }]
    }

    fn size(shape: Shape, tokens: usize) -> usize {
        Self::sizes(shape, tokens).iter().sum::<usize>() + 2 * shape.k * shape.v + shape.behind().iter().sum::<usize>()
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
            behind: Behind::new(shape, rest),
            through: Through::new(gates, k),
        }
    }
}

/// The rows that are gathered next, and those that are written soon.
struct Coming<'a, 't> {
    x: &'a Tokens<'t>,
    /// The head and tokens that come next.
    h: usize,
    tokens: Range<usize>,
    queries: bool,
    d_o: Option<&'a Rows<'t>>,
    /// Rows of these, from the ones given on.
    places: [Option<RowAddresses>; 6],
    at: usize,
}

impl Ask for Coming<'_, '_> {
    fn rows(&self, i: usize, soon: &mut PrefetchQueue) {
        for place in self.places.iter().flatten() {
            place.queue_prefetch(self.at + i, soon);
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

impl Kernel for Heads<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self(mut heads) = self;
        let Some(&Head { x, ref range, past, .. }) = heads.first() else { return };
        let (k, v, gates, total) = (x.dims.k, x.dims.v, x.gate_width(), range.len());
        if total == 0 {
            return;
        }
        let (erases, general) = (x.erases(), x.erase.is_some());
        let shape = Shape { most: Shape::tokens(k, v, gates).min(total), k, v, gates, erases, general };
        let size = shape.size() + heads.len() * Kept::size(shape, total) + 2 * k.max(v);
        let scratch = &mut Scratch::new(size);
        let mut rest = &mut scratch[..];
        let mut rows = Segment::new(shape, &mut rest);
        let [row, product] = [k.max(v); 2].map(|width| take(&mut rest, width));
        let mut all: Vec<_> = heads.iter().map(|_| Kept::new(shape, total, &mut rest)).collect();
        for (head, kept) in heads.iter_mut().zip(&mut all) {
            head.begin(s, kept, [&mut *row, &mut *product]);
        }
        let segments = total.div_ceil(shape.most);
        let (last, numbers) = (segments - 1, heads.iter().map(|head| head.h).collect::<Vec<_>>());
        let after = |i: usize| if i + 1 < numbers.len() { (i + 1, 0) } else { (0, 1) };
        for (j, i) in (0..segments).flat_map(|j| (0..numbers.len()).map(move |i| (j, i))) {
            let (next, segment) = (numbers[after(i).0], j + after(i).1);
            match erases {
                true => heads[i].erased(s, shape, &mut rows, &mut all[i], j, (next, segment)),
                false => heads[i].queries(s, shape, &mut rows, &mut all[i], j, (next, segment)),
            }
        }
        for (j, i) in (0..segments).rev().flat_map(|j| (0..numbers.len()).map(move |i| (j, i))) {
            let (next, back) = after(i);
            let next = (numbers[next], heads[next].to.q.addresses(), j.checked_sub(back));
            heads[i].sweep(s, shape, &mut rows, &mut all[i], (j, j == last), next);
        }
        for (head, kept) in heads.iter_mut().zip(&all) {
            head.end(s, kept);
        }
        if rows.runs.above {
            x.above.store(true, Ordering::Relaxed);
        }
        if past {
            store_fence();
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
        let (x, h, Shape { k, v, .. }) = (self.x, self.h, shape);
        rows.runs.push(s, x.gates(t, h));
        x.key(s, t, h, rows.runs.grown(r), &mut rows.k[r * k..(r + 1) * k]);
        math::copy(s, x.v(t, h), &mut rows.v[r * v..(r + 1) * v]);
    }

    /// Whether gradients to queries are looked at again, and scaled only then.
    pub(super) fn again(&self) -> bool {
        self.x.g.is_some() || self.x.bonus.is_some() || self.x.erases()
    }

    /// The tokens of a segment.
    #[inline(always)]
    fn segment(&self, j: usize, shape: Shape) -> Range<usize> {
        let total = self.range.len();
        (j * shape.most).min(total)..((j + 1) * shape.most).min(total)
    }

    /// As [`Head::segment`], in the batch.
    #[inline(always)]
    fn coming(&self, j: usize, shape: Shape) -> Range<usize> {
        let Range { start, end } = self.segment(j, shape);
        self.range.start + start..self.range.start + end
    }

    /// The state and its gradient as they will be wanted, and what is read before the first token is written.
    #[inline(always)]
    fn begin<S: Lanes>(&mut self, s: S, kept: &mut Kept<'_>, [row, product]: [&mut [f32]; 2]) {
        let (x, k, v) = (self.x, self.x.dims.k, self.x.dims.v);
        transpose(s, self.d_state, v, kept.d_state);
        if x.erases() {
            kept.state.copy_from_slice(self.state);
            x.erasing(s, self.range.start, self.h, &mut row[..k]);
            return read(s, kept.state, &row[..k], &mut kept.w[..v]);
        }
        transpose(s, self.state, v, kept.state);
        if x.bonus.is_some() {
            self.dout(s, 0, &mut row[..v]);
            read(s, kept.state, &row[..v], &mut product[..k]);
            math::copy(s, &product[..k], self.to.q.row(0));
        }
    }

    /// What the first token read before it was written, which no token before it takes up.
    #[inline(always)]
    fn end<S: Lanes>(&mut self, s: S, kept: &Kept<'_>) {
        let [of_output, of_erased] = kept.behind.writes();
        if self.x.erases() {
            add_outer(s, of_erased.0, of_erased.1, self.d_state);
        }
        if self.x.bonus.is_some() {
            add_outer(s, of_output.0, of_output.1, self.d_state);
        }
    }

    /// Forwards through segment `j`, where nothing is erased: the states, transposed, give the gradients to queries. A head and its segment come next.
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
        let early = x.bonus.is_some();
        let by = if self.again() { 1.0 } else { x.scale };
        // Not what is read again.
        let past = self.past && !self.again();
        rows.runs.clear();
        for r in 0..n {
            let t = self.range.start + first + r;
            self.written(s, shape, rows, (t, r));
            let (at, d_o) = (first + r + usize::from(early), &mut rows.d_o[r * v..(r + 1) * v]);
            if at < total { self.dout(s, at, d_o) } else { d_o.fill(0.0) }
        }
        if x.g.is_some() && tokens.end == total {
            rows.k[(n - 1) * k..n * k].fill(0.0);
        }
        rows.runs.end();
        let ask = Coming {
            x,
            h: next.0,
            tokens: self.coming(next.1, shape),
            queries: false,
            d_o: Some(self.d_o),
            places: [Some(self.to.q.addresses()).filter(|_| !past), None, None, None, None, None],
            at: first,
        };
        let (cuts, pass) = (rows.runs.cuts(Along::Columns), (n, v, k, false));
        let (written, out) = ([&mut *rows.k], [&mut *rows.dq]);
        let how = (self.isa, x.g.is_some());
        over_transposed(how, pass, kept.state, cuts, [&*rows.v], written, [&*rows.d_o], out, &ask);
        if early {
            // It belongs to the segment behind.
            scale(s, rows.runs.left(n - 1), &mut rows.dq[(n - 1) * k..n * k]);
        }
        for r in 0..n {
            let at = first + r + usize::from(early);
            if at < total {
                math::scale_into_non_temporal(s, past, by, &rows.dq[r * k..(r + 1) * k], self.to.q.row(at));
            }
        }
        if !kept.states.is_empty() {
            kept.states[j * k * v..(j + 1) * k * v].copy_from_slice(kept.state);
        }
    }

    /// Forwards through segment `j`, where something is erased: what that is, `w`, and the state before the segment, transposed. A head and its segment
    /// come next.
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
        let (n, behind) = (end - first, self.range.start + end);
        transpose(s, kept.state, v, &mut kept.states[j * k * v..(j + 1) * k * v]);
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
        let last = &mut rows.a[(n - 1) * k..n * k];
        if behind < self.range.end {
            x.erasing(s, behind, h, last);
            scale(s, rows.runs.left(n - 1), last);
        } else {
            last.fill(0.0)
        }
        rows.runs.end();
        let ask = Coming {
            x,
            h: next.0,
            tokens: self.coming(next.1, shape),
            queries: false,
            d_o: None,
            places: [None; 6],
            at: 0,
        };
        let (known, out) = kept.w.split_at_mut((first + 1) * v);
        let erased = &known[first * v..];
        let cuts = rows.runs.cuts(Along::Rows);
        let pass = (n, k, v, false);
        if general {
            math::copy(s, erased, &mut rows.moved[..v]);
            let (write, written) = ([&*rows.k, &*rows.b], [&mut *rows.v, &mut *rows.moved]);
            over(self.isa, pass, kept.state, cuts, write, written, [&*rows.a], [out], Move, &ask);
        } else {
            correct(s, rows.beta[0], erased, &mut rows.v[..v]);
            let carry = Correct { beta: rows.beta };
            over(self.isa, pass, kept.state, cuts, [&*rows.k], [&mut *rows.v], [&*rows.a], [out], carry, &ask);
        }
    }

    /// Back through segment `j`, whether it is the last: all other gradients. A head, its gradients to queries, and its segment, if there is one, come next.
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
        let (early, own) = (x.bonus.is_some(), x.beta.is_some());
        let (again, past) = (self.again() && !erases, self.past);
        let shift = usize::from(early);
        let tokens = self.segment(j, shape);
        let (first, n) = (tokens.start, tokens.len());
        rows.begin(s, n, shape, Some(&kept.behind).filter(|_| !last));
        self.gather(s, shape, rows, first, kept.w);
        let coming = segment.map_or(0..0, |segment| self.coming(segment, shape));
        let ask = Coming {
            x,
            h: next,
            queries: true,
            d_o: Some(self.d_o),
            places: [segment.filter(|_| again).map(|_| queries_of_next), None, None, None, None, None],
            at: coming.start.saturating_sub(self.range.start),
            tokens: coming,
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
        // The queries, and what reads what is erased, from the state before the segment on.
        let state = match kept.states.len() {
            0 => &mut *kept.state,
            _ => &mut kept.states[j * k * v..(j + 1) * k * v],
        };
        let erased = if erases { &kept.w[first * v..(first + n) * v] } else { &[] };
        let how = (isa, x.g.is_some());
        if erases {
            read(s, state, &rows.dw[..v], &mut rows.da[..k]);
            // The last token's writes are not wanted in the state that the gate's gradient starts from.
            let put_aside = how.1 && last;
            if put_aside {
                kept.behind.put_aside(s, shape, rows);
            }
            let cuts = rows.runs.cuts(Along::Columns);
            let (read, out) = ([&*rows.d_o, &rows.dw[v..]], [&mut *rows.dq, &mut rows.da[k..]]);
            let pass = (n, v, k, false);
            if general {
                let (write, written) = ([&*rows.v, erased], [&mut *rows.k, &mut *rows.b]);
                over_transposed(how, pass, state, cuts, write, written, read, out, &Nothing);
            } else {
                over_transposed(how, pass, state, cuts, [&*rows.v], [&mut *rows.k], read, out, &Nothing);
            }
            if put_aside {
                kept.behind.take_back(s, shape, rows);
            }
        }
        let cuts = rows.runs.cuts(Along::Columns);
        if x.g.is_some() {
            kept.through.start(s, [state, kept.d_state], k);
            if erases {
                kept.through.add(s, nth(rows.a, n, k), nth(rows.da, n, k));
            }
        }
        // The keys, and where the erased goes.
        let ask = Coming {
            x,
            h: self.h,
            tokens: 0..0,
            queries: false,
            d_o: None,
            places: [
                Some(self.to.q.addresses()).filter(|_| erases && !past),
                Some(self.to.k.addresses()).filter(|_| !past),
                Some(self.to.v.addresses()).filter(|_| !past),
                Some(self.to.g.addresses()).filter(|_| !past || gates < 2),
                Some(self.to.a.addresses()).filter(|_| !past),
                Some(self.to.b.addresses()).filter(|_| !past),
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
                over_transposed(how, pass, kept.d_state, cuts, write, written, read, out, &ask);
            } else {
                let out = [&mut *rows.dk];
                over_transposed(how, pass, kept.d_state, cuts, write, written, [&*rows.v], out, &ask);
            }
        } else {
            let out = [&mut *rows.dk];
            over_transposed(how, pass, kept.d_state, cuts, [d_out], [queries], [&*rows.v], out, &ask);
        }
        let mut told = None;
        for r in (0..n).rev() {
            self.token(s, shape, rows, (first + r, r), erased, (&mut kept.through, &mut told));
        }
        rows.leave(s, &mut kept.behind);
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
}

/// Row `r`.
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
