//! Decay beside the matrix instead of in it.
//!
//! With `L_t` what is left, at token `t`, of the matrix as it was at the first token of a run, `S_t = L_t ⊙ S̃_t`, the matrix `S̃` is written to
//! and read, but not decayed, whether the gate is one number a token or one a row:
//!
//! $$ \tilde S_t = \tilde S_{t-1} + (k_t / L_t)\,y_t^\top, \qquad S_t^\top p = \tilde S_t^\top (L_t \odot p). $$
//!
//! So what a token writes is divided, and what it reads with is multiplied, by its `L`: `K` numbers instead of `K V`. Gradients go the other way
//! with the same numbers: `L_t ⊙ D_t`, the gradient to `S̃_t`, is written to by `L_t ⊙ q_t` and read by `k_t / L_t`. A run ends before anything of `L` falls
//! below [`LEAST`]; between two runs, at a cut, the matrix is decayed for all of them at once. (Yang et al. 2024, GLA, §4.2, divide keys
//! within a chunk.)

use longreach_simd::{Lanes, math};

/// The least that may be left of a matrix before its decay is taken into it, `e⁻¹⁷`; a gate that leaves less leaves less than the state's rounding.
pub(super) const LEAST: f32 = 4.14e-8;
/// The same as a gate.
pub(super) const LEAST_GATE: f32 = -17.0;

/// A place for a cut before each token and behind the last.
const CUTS: usize = 129;

/// Which way factors lie along the matrix.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Along {
    Rows,
    Columns,
}

/// Where the matrix itself is decayed, and by what.
#[derive(Clone, Copy)]
pub(super) struct Cuts<'a> {
    /// Before which tokens; behind the last, if it is their number. Ascending.
    at: &'a [u16],
    /// A row for each of those tokens, by its place.
    factors: &'a [f32],
    /// Factors in a row: one, or one a row or column of the matrix.
    width: usize,
    pub(super) along: Along,
}

impl<'a> Cuts<'a> {
    /// The `n`th cut in the order of a pass over so many tokens: how many of them come before it, and the factors.
    #[inline(always)]
    pub(super) fn get(&self, n: usize, tokens: usize, back: bool) -> Option<(usize, &'a [f32])> {
        let place = if back { self.at.len().checked_sub(n + 1)? } else { n };
        let at = usize::from(*self.at.get(place)?);
        Some((if back { tokens - at } else { at }, &self.factors[at * self.width..(at + 1) * self.width]))
    }

    /// Whether there is one factor for the whole matrix.
    #[inline(always)]
    pub(super) fn whole(&self) -> bool {
        self.width <= 1
    }
}

/// The runs of some tokens.
pub(super) struct Runs<'m> {
    /// Factors a token: none, one, or one a channel of a key.
    width: usize,
    /// `L`, `[tokens, width]`
    left: &'m mut [f32],
    /// `1 / L`
    grown: &'m mut [f32],
    /// Where there is a cut, `L` of the token before times what this one leaves; behind the last token, its `L`.
    entry: &'m mut [f32],
    cuts: [u16; CUTS],
    count: usize,
    /// Before which of the tokens there is one.
    is_cut: u128,
    tokens: usize,
    /// Whether some gate was above 0.
    pub(super) above: bool,
}

impl<'m> Runs<'m> {
    /// The most tokens there can be.
    pub(super) const MOST: usize = CUTS - 1;

    /// How many numbers so many tokens need.
    pub(super) fn size(tokens: usize, width: usize) -> usize {
        (3 * tokens + 1) * width
    }

    #[inline(always)]
    pub(super) fn new(tokens: usize, width: usize, rest: &mut &'m mut [f32]) -> Self {
        let mut rows = |n: usize| take(rest, n * width);
        let (left, grown, entry) = (rows(tokens), rows(tokens), rows(tokens + 1));
        Self { width, left, grown, entry, cuts: [0; CUTS], count: 0, is_cut: 0, tokens: 0, above: false }
    }

    /// Forgets all tokens.
    #[inline(always)]
    pub(super) fn clear(&mut self) {
        (self.count, self.is_cut, self.tokens) = (0, 0, 0);
    }

    /// The next token with its gates, logarithms, and a cut before it if one is needed.
    #[inline(always)]
    pub(super) fn push<S: Lanes>(&mut self, s: S, gates: &[f32]) {
        let (t, width) = (self.tokens, self.width);
        self.tokens += 1;
        if width == 0 {
            return;
        }
        let (before, here) = self.left.split_at_mut(t * width);
        let before = &before[t.saturating_sub(1) * width..];
        let (gates, here) = (&gates[..width], &mut here[..width]);
        let grown = &mut self.grown[t * width..(t + 1) * width];
        let whole = width / S::LANES * S::LANES;
        // What is no number is not enough, nor is what belongs to no gate.
        let (zero, one) = (s.splat(0.0), s.splat(1.0));
        let (mut enough, mut all) = (one, true);
        for at in (0..whole).step_by(S::LANES) {
            let gate = s.load(&gates[at..]);
            let mut x = math::exp(s, gate);
            if t > 0 {
                x = s.mul(x, s.load(&before[at..]));
            }
            s.store(&mut here[at..], x);
            s.store(&mut grown[at..], s.reciprocal(x));
            enough = s.select_lt(s.splat(LEAST), x, enough, zero);
            enough = s.select_lt(zero, gate, zero, enough);
        }
        if whole < width {
            let mut rest = [0.0; 16];
            s.store(&mut rest, math::exp(s, s.load_part(&gates[whole..])));
            for (at, mut x) in (whole..width).zip(rest) {
                if t > 0 {
                    x *= before[at];
                }
                (here[at], grown[at]) = (x, 1.0 / x);
                all &= x > LEAST && gates[at] <= 0.0;
            }
        }
        if !all || whole > 0 && s.sum(enough) < S::LANES as f32 {
            self.above |= above(s, gates);
            self.entry[t * width..(t + 1) * width].copy_from_slice(here);
            here.fill(1.0);
            grown.fill(1.0);
            self.cuts[self.count] = t as u16;
            self.count += 1;
            self.is_cut |= 1 << t;
        }
    }

    /// That was all: behind it the matrix is whole again.
    #[inline(always)]
    pub(super) fn end(&mut self) {
        let (t, width) = (self.tokens, self.width);
        let cut = self.count > 0 && usize::from(self.cuts[self.count - 1]) + 1 == t;
        if width == 0 || t == 0 || cut {
            return;
        }
        let last = &self.left[(t - 1) * width..t * width];
        self.entry[t * width..(t + 1) * width].copy_from_slice(last);
        self.cuts[self.count] = t as u16;
        self.count += 1;
    }

    #[inline(always)]
    pub(super) fn cuts(&self, along: Along) -> Cuts<'_> {
        Cuts { at: &self.cuts[..self.count], factors: self.entry, width: self.width, along }
    }

    /// Whether there is a cut before the token.
    #[inline(always)]
    pub(super) fn is_cut(&self, t: usize) -> bool {
        self.is_cut >> t & 1 == 1
    }

    /// `L_t`: what the token reads with is multiplied by it.
    #[inline(always)]
    pub(super) fn left(&self, t: usize) -> &[f32] {
        &self.left[t * self.width..(t + 1) * self.width]
    }

    /// `1 / L_t`: what the token writes is multiplied by it.
    #[inline(always)]
    pub(super) fn grown(&self, t: usize) -> &[f32] {
        &self.grown[t * self.width..(t + 1) * self.width]
    }

    /// `L_{t-1}` times what the gate of token `t` leaves, which is `L_t` if there is no cut between them.
    #[inline(always)]
    pub(super) fn entry(&self, t: usize) -> &[f32] {
        let rows = if self.is_cut(t) { &self.entry } else { &self.left };
        &rows[t * self.width..(t + 1) * self.width]
    }
}

/// Whether one of some gates is above 0.
#[inline(always)]
pub(super) fn above<S: Lanes>(s: S, gates: &[f32]) -> bool {
    let mut some = s.splat(0.0);
    for gates in gates.chunks(S::LANES) {
        some = s.select_lt(s.splat(0.0), s.load_part(gates), s.splat(1.0), some);
    }
    s.sum(some) > 0.0
}

/// `x ← by ⊙ x`, where `by` has a number for each, one for all, or none: then `x` stays as it is.
#[inline(always)]
pub(super) fn scale<S: Lanes>(s: S, by: &[f32], x: &mut [f32]) {
    match by {
        [] => return,
        [by] => return math::scale(s, *by, x),
        _ => {}
    }
    let (by, whole) = (&by[..x.len()], math::whole::<S>(x.len()));
    for at in (0..whole).step_by(S::LANES) {
        let scaled = s.mul(s.load(&by[at..]), s.load(&x[at..]));
        s.store(&mut x[at..], scaled);
    }
    if whole < x.len() {
        let scaled = s.mul(s.load_part(&by[whole..]), s.load_part(&x[whole..]));
        s.store_part(&mut x[whole..], scaled);
    }
}

/// `out ← by ⊙ x`, as [`scale`].
#[inline(always)]
pub(super) fn scale_into<S: Lanes>(s: S, by: &[f32], x: &[f32], out: &mut [f32]) {
    match by {
        [] => math::copy(s, x, out),
        [by] => math::scale_into(s, *by, x, out),
        _ => {
            let (x, by, whole) = (&x[..out.len()], &by[..out.len()], math::whole::<S>(out.len()));
            for at in (0..whole).step_by(S::LANES) {
                s.store(&mut out[at..], s.mul(s.load(&by[at..]), s.load(&x[at..])));
            }
            if whole < out.len() {
                s.store_part(&mut out[whole..], s.mul(s.load_part(&by[whole..]), s.load_part(&x[whole..])));
            }
        }
    }
}

/// `out ← scale · by ⊙ x`, as [`scale`].
#[inline(always)]
pub(super) fn scale_twice_into<S: Lanes>(s: S, scale: f32, by: &[f32], x: &[f32], out: &mut [f32]) {
    let by = match by {
        [] => return math::scale_into(s, scale, x, out),
        [by] => return math::scale_into(s, scale * by, x, out),
        _ => by,
    };
    let (scale, x, by) = (s.splat(scale), &x[..out.len()], &by[..out.len()]);
    let whole = math::whole::<S>(out.len());
    for at in (0..whole).step_by(S::LANES) {
        s.store(&mut out[at..], s.mul(s.mul(scale, s.load(&by[at..])), s.load(&x[at..])));
    }
    if whole < out.len() {
        let part = s.mul(s.mul(scale, s.load_part(&by[whole..])), s.load_part(&x[whole..]));
        s.store_part(&mut out[whole..], part);
    }
}

/// As [`scale_twice_into`], past the caches if that is asked for: [`Lanes::store_non_temporal`].
#[inline(always)]
pub(super) fn scale_twice_past<S: Lanes>(s: S, past: bool, scale: f32, by: &[f32], x: &[f32], out: &mut [f32]) {
    match by {
        [] => return math::scale_into_non_temporal(s, past, scale, x, out),
        [by] => return math::scale_into_non_temporal(s, past, scale * by, x, out),
        _ if !past => return scale_twice_into(s, scale, by, x, out),
        _ => {}
    }
    let (scale, x, by) = (s.splat(scale), &x[..out.len()], &by[..out.len()]);
    let whole = math::whole::<S>(out.len());
    for at in (0..whole).step_by(S::LANES) {
        s.store_non_temporal(&mut out[at..], s.mul(s.mul(scale, s.load(&by[at..])), s.load(&x[at..])));
    }
    if whole < out.len() {
        let part = s.mul(s.mul(scale, s.load_part(&by[whole..])), s.load_part(&x[whole..]));
        s.store_part(&mut out[whole..], part);
    }
}

/// `out ← by ⊙ x + by' ⊙ x'`, as [`scale`], past the caches if that is asked for.
#[inline(always)]
pub(super) fn scale_both_past<S: Lanes>(s: S, past: bool, [(a, x), (b, y)]: [(&[f32], &[f32]); 2], out: &mut [f32]) {
    let each = a.len() > 1;
    let (of_x, of_y) = (s.splat(a.first().copied().unwrap_or(1.0)), s.splat(b.first().copied().unwrap_or(1.0)));
    let whole = math::whole::<S>(x.len());
    for at in (0..whole).step_by(S::LANES) {
        let (a, b) = if each { (s.load(&a[at..]), s.load(&b[at..])) } else { (of_x, of_y) };
        let sum = s.fma(a, s.load(&x[at..]), s.mul(b, s.load(&y[at..])));
        if past { s.store_non_temporal(&mut out[at..], sum) } else { s.store(&mut out[at..], sum) }
    }
    for at in whole..x.len() {
        let by = |by: &[f32]| by.get(if each { at } else { 0 }).copied().unwrap_or(1.0);
        out[at] = by(a) * x[at] + by(b) * y[at];
    }
}

/// So many numbers off the front.
#[inline(always)]
pub(super) fn take<'m>(rest: &mut &'m mut [f32], n: usize) -> &'m mut [f32] {
    let (mine, others) = std::mem::take(rest).split_at_mut(n);
    *rest = others;
    mine
}
