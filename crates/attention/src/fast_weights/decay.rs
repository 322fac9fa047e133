//! Lazy decay: cumulative factors are kept beside the matrix, and applied to keys and queries instead of to the
//! matrix.
//!
//! Let `L_t` be the cumulative decay since the start of a *run* of tokens: `K` numbers, or one. With
//! `S_t = L_t ⊙ S̃_t`, where `⊙` scales rows, the matrix `S̃` is written and read, but not decayed:
//!
//! $$ \tilde S_t = \tilde S_{t-1} + (k_t / L_t)\,y_t^\top, \qquad S_t^\top p = \tilde S_t^\top (L_t \odot p). $$
//!
//! Keys are divided and queries multiplied by `L_t`, which takes `K` operations per token instead of `K V` (Yang et
//! al. 2024, GLA, §4.2, divide keys within a chunk). The backward pass uses the same numbers: `L_t ⊙ D_t`, the
//! gradient to `S̃_t`, is written to by `L_t ⊙ q_t` and read by `k_t / L_t`. A run ends before an element of `L` falls
//! to [`MIN_DECAY`] or below. At that point, a *cut*, the matrix itself is rescaled, and `L` becomes 1.

use longreach_simd::{Lanes, math};

/// The smallest cumulative decay before the matrix is rescaled, `e⁻¹⁷`. What decays further is below the rounding of
/// f32.
pub(super) const MIN_DECAY: f32 = 4.14e-8;
/// The logarithm of [`MIN_DECAY`].
pub(super) const MIN_GATE: f32 = -17.0;

/// The largest number of cuts: one before each token, and one after the last.
const CUTS: usize = 129;

/// The axis of the matrix that the factors scale.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DecayAxis {
    Rows,
    Columns,
}

/// The points at which the matrix is rescaled, and the factors.
#[derive(Clone, Copy)]
pub(super) struct Cuts<'a> {
    /// The index of the token after each cut, or the number of tokens for a cut after the last. Ascending.
    at: &'a [u16],
    /// `[tokens + 1, width]`; only the rows of the tokens in `at` are used.
    factors: &'a [f32],
    /// Factors per row: 1, or as many as the matrix has rows or columns.
    width: usize,
    pub(super) axis: DecayAxis,
}

impl<'a> Cuts<'a> {
    /// The `n`th cut in the order of a pass over `tokens` tokens: how many tokens precede it, and the factors.
    #[inline(always)]
    pub(super) fn get(&self, n: usize, tokens: usize, reverse: bool) -> Option<(usize, &'a [f32])> {
        let place = if reverse { self.at.len().checked_sub(n + 1)? } else { n };
        let at = usize::from(*self.at.get(place)?);
        Some((if reverse { tokens - at } else { at }, &self.factors[at * self.width..(at + 1) * self.width]))
    }

    #[inline(always)]
    pub(super) fn is_scalar(&self) -> bool {
        self.width <= 1
    }
}

/// The cumulative decay of a chunk of tokens, and the cuts at which it restarts.
pub(super) struct CumulativeDecay<'m> {
    /// Factors per token: 0, 1, or the width of a key.
    width: usize,
    /// `L`, `[tokens, width]`
    cumulative: &'m mut [f32],
    /// `1 / L`
    inverse: &'m mut [f32],
    /// At a cut, `L_{t-1} ⊙ e^{g_t}`; after the last token, its `L`.
    entry: &'m mut [f32],
    cuts: [u16; CUTS],
    count: usize,
    /// A bit per token: whether there is a cut before it.
    is_cut: u128,
    tokens: usize,
    /// Whether any gate was above 0.
    pub(super) positive_gate: bool,
}

impl<'m> CumulativeDecay<'m> {
    /// The largest number of tokens.
    pub(super) const MAX_TOKENS: usize = CUTS - 1;

    /// The size of the scratch memory for `tokens` tokens.
    pub(super) fn size(tokens: usize, width: usize) -> usize {
        (3 * tokens + 1) * width
    }

    #[inline(always)]
    pub(super) fn new(tokens: usize, width: usize, rest: &mut &'m mut [f32]) -> Self {
        let mut rows = |n: usize| take(rest, n * width);
        let (cumulative, inverse, entry) = (rows(tokens), rows(tokens), rows(tokens + 1));
        Self {
            width,
            cumulative,
            inverse,
            entry,
            cuts: [0; CUTS],
            count: 0,
            is_cut: 0,
            tokens: 0,
            positive_gate: false,
        }
    }

    #[inline(always)]
    pub(super) fn clear(&mut self) {
        (self.count, self.is_cut, self.tokens) = (0, 0, 0);
    }

    /// Appends a token with the gates `g_t`, and a cut before it if one is needed.
    #[inline(always)]
    pub(super) fn push<S: Lanes>(&mut self, s: S, gates: &[f32]) {
        let (t, width) = (self.tokens, self.width);
        self.tokens += 1;
        if width == 0 {
            return;
        }
        let (before, here) = self.cumulative.split_at_mut(t * width);
        let before = &before[t.saturating_sub(1) * width..];
        let (gates, here) = (&gates[..width], &mut here[..width]);
        let inverse = &mut self.inverse[t * width..(t + 1) * width];
        let whole = width / S::LANES * S::LANES;
        // A vector passes if each product is above the minimum and each gate is at most 0; NaN fails both.
        let (zero, one) = (s.splat(0.0), s.splat(1.0));
        let (mut passed, mut all) = (one, true);
        for at in (0..whole).step_by(S::LANES) {
            let gate = s.load(&gates[at..]);
            let mut x = math::exp(s, gate);
            if t > 0 {
                x = s.mul(x, s.load(&before[at..]));
            }
            s.store(&mut here[at..], x);
            s.store(&mut inverse[at..], s.reciprocal(x));
            passed = s.select_lt(s.splat(MIN_DECAY), x, passed, zero);
            passed = s.select_lt(zero, gate, zero, passed);
        }
        if whole < width {
            let mut rest = [0.0; 16];
            s.store(&mut rest, math::exp(s, s.load_part(&gates[whole..])));
            for (at, mut x) in (whole..width).zip(rest) {
                if t > 0 {
                    x *= before[at];
                }
                (here[at], inverse[at]) = (x, 1.0 / x);
                all &= x > MIN_DECAY && gates[at] <= 0.0;
            }
        }
        if !all || whole > 0 && s.sum(passed) < S::LANES as f32 {
            self.positive_gate |= any_positive(s, gates);
            self.entry[t * width..(t + 1) * width].copy_from_slice(here);
            here.fill(1.0);
            inverse.fill(1.0);
            self.cuts[self.count] = t as u16;
            self.count += 1;
            self.is_cut |= 1 << t;
        }
    }

    /// Ends the chunk with a cut, so that the matrix is the state itself after the pass.
    #[inline(always)]
    pub(super) fn end(&mut self) {
        let (t, width) = (self.tokens, self.width);
        let cut = self.count > 0 && usize::from(self.cuts[self.count - 1]) + 1 == t;
        if width == 0 || t == 0 || cut {
            return;
        }
        let last = &self.cumulative[(t - 1) * width..t * width];
        self.entry[t * width..(t + 1) * width].copy_from_slice(last);
        self.cuts[self.count] = t as u16;
        self.count += 1;
    }

    #[inline(always)]
    pub(super) fn cuts(&self, axis: DecayAxis) -> Cuts<'_> {
        Cuts { at: &self.cuts[..self.count], factors: self.entry, width: self.width, axis }
    }

    /// Whether there is a cut before token `t`.
    #[inline(always)]
    pub(super) fn is_cut(&self, t: usize) -> bool {
        self.is_cut >> t & 1 == 1
    }

    /// `L_t`, which multiplies what token `t` reads with.
    #[inline(always)]
    pub(super) fn cumulative(&self, t: usize) -> &[f32] {
        &self.cumulative[t * self.width..(t + 1) * self.width]
    }

    /// `1 / L_t`, which multiplies what token `t` writes.
    #[inline(always)]
    pub(super) fn inverse(&self, t: usize) -> &[f32] {
        &self.inverse[t * self.width..(t + 1) * self.width]
    }

    /// `L_{t-1} ⊙ e^{g_t}`, which is `L_t` unless there is a cut before token `t`.
    #[inline(always)]
    pub(super) fn entry(&self, t: usize) -> &[f32] {
        let rows = if self.is_cut(t) { &self.entry } else { &self.cumulative };
        &rows[t * self.width..(t + 1) * self.width]
    }
}

/// Whether any of these gates is above 0.
#[inline(always)]
pub(super) fn any_positive<S: Lanes>(s: S, gates: &[f32]) -> bool {
    let mut some = s.splat(0.0);
    for gates in gates.chunks(S::LANES) {
        some = s.select_lt(s.splat(0.0), s.load_part(gates), s.splat(1.0), some);
    }
    s.sum(some) > 0.0
}

/// `x ← by ⊙ x`, where `by` has one number per element, one for all, or none, which leaves `x` unchanged.
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

/// `out ← by ⊙ x`, with `by` as in [`scale`].
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

/// `out ← scale · by ⊙ x`, with `by` as in [`scale`].
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

/// As [`scale_twice_into`], with non-temporal stores if `non_temporal` ([`Lanes::store_non_temporal`]).
#[inline(always)]
pub(super) fn scale_twice_into_non_temporal<S: Lanes>(
    s: S,
    non_temporal: bool,
    scale: f32,
    by: &[f32],
    x: &[f32],
    out: &mut [f32],
) {
    match by {
        [] => return math::scale_into_non_temporal(s, non_temporal, scale, x, out),
        [by] => return math::scale_into_non_temporal(s, non_temporal, scale * by, x, out),
        _ if !non_temporal => return scale_twice_into(s, scale, by, x, out),
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

/// `out ← by ⊙ x + by' ⊙ x'`, with factors as in [`scale`], and with non-temporal stores if `non_temporal`.
#[inline(always)]
pub(super) fn scaled_sum_non_temporal<S: Lanes>(
    s: S,
    non_temporal: bool,
    [(a, x), (b, y)]: [(&[f32], &[f32]); 2],
    out: &mut [f32],
) {
    let each = a.len() > 1;
    let (of_x, of_y) = (s.splat(a.first().copied().unwrap_or(1.0)), s.splat(b.first().copied().unwrap_or(1.0)));
    let whole = math::whole::<S>(x.len());
    for at in (0..whole).step_by(S::LANES) {
        let (a, b) = if each { (s.load(&a[at..]), s.load(&b[at..])) } else { (of_x, of_y) };
        let sum = s.fma(a, s.load(&x[at..]), s.mul(b, s.load(&y[at..])));
        if non_temporal { s.store_non_temporal(&mut out[at..], sum) } else { s.store(&mut out[at..], sum) }
    }
    for at in whole..x.len() {
        let by = |by: &[f32]| by.get(if each { at } else { 0 }).copied().unwrap_or(1.0);
        out[at] = by(a) * x[at] + by(b) * y[at];
    }
}

/// Splits `n` numbers off the front of `rest`.
#[inline(always)]
pub(super) fn take<'m>(rest: &mut &'m mut [f32], n: usize) -> &'m mut [f32] {
    let (mine, others) = std::mem::take(rest).split_at_mut(n);
    *rest = others;
    mine
}
