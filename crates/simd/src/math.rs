//! Elementary functions on vectors, and on slices with all threads.
//!
//! Errors are within 2 units in the last place of f32 over the whole range (`tests/math.rs`); intermediate results do
//! not overflow: `softplus(100) = 100`, `sigmoid(-100) = 3.8e-44`.

use crate::{Cx, Kernel, Lanes};

/// `eˣ`: 0 below −104, infinite above 88.72.
#[inline(always)]
pub fn exp<S: Lanes>(s: S, x: S::V) -> S::V {
    // x = n ln 2 + r with |r| ≤ ln 2 / 2; eˣ = 2ⁿ eʳ, and eʳ = 1 + r + r² p(r) with a minimax p (Cephes, Moshier 1992).
    let x = s.min(s.splat(89.0), s.max(s.splat(-104.0), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fma(n, s.splat(-0.693_359_4), x);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = s.fma(p, r, s.splat(c));
    }
    let e = s.add(s.fma(s.mul(r, r), p, r), s.splat(1.0));
    s.scale_by_power_of_two(e, n)
}

/// `2ˣ`: 0 below −151, infinite from 128 on. Cheaper than [`exp`]; for exponents that are already scaled by log₂ e.
#[inline(always)]
pub fn exp2<S: Lanes>(s: S, x: S::V) -> S::V {
    exp2_at_most(s, 129.0, x)
}

/// As [`exp2`], for exponents of at most `most` up to rounding; they are clamped to it.
#[inline(always)]
pub fn exp2_at_most<S: Lanes>(s: S, most: f32, x: S::V) -> S::V {
    let x = s.min(s.splat(most), s.max(s.splat(-151.0), x));
    let n = s.round(x);
    let r = s.sub(x, n);
    let mut p = s.splat(1.535_336_2e-4);
    for c in [1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 2.402_264_8e-1, 6.931_472e-1, 1.0] {
        p = s.fma(p, r, s.splat(c));
    }
    s.scale_by_power_of_two(p, n)
}

/// `ln(1 + u)` for `u` in `[0, 1]`.
#[inline(always)]
fn log1p_unit<S: Lanes>(s: S, u: S::V) -> S::V {
    // 2 artanh(v) with v = u / (2 + u) ≤ 1/3: exact as u → 0, a short odd series elsewhere.
    let v = s.div(u, s.add(u, s.splat(2.0)));
    let w = s.mul(v, v);
    let mut p = s.splat(2.0 / 17.0);
    for c in [2.0 / 15.0, 2.0 / 13.0, 2.0 / 11.0, 2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0] {
        p = s.fma(p, w, s.splat(c));
    }
    s.fma(s.mul(v, w), p, s.add(v, v))
}

#[inline(always)]
fn neg_abs<S: Lanes>(s: S, x: S::V) -> S::V {
    s.min(s.sub(s.splat(0.0), x), x)
}

/// The hyperbolic tangent.
#[inline(always)]
pub fn tanh<S: Lanes>(s: S, x: S::V) -> S::V {
    // 1 − 2 / (1 + e^{2|x|}), which cancels for small x; there an odd polynomial.
    let a = s.sub(s.splat(0.0), neg_abs(s, x));
    let e = exp(s, s.add(a, a));
    let far = s.sub(s.splat(1.0), s.div(s.splat(2.0), s.add(s.splat(1.0), e)));
    let far = s.select_lt(x, s.splat(0.0), s.sub(s.splat(0.0), far), far);
    let w = s.mul(x, x);
    let mut p = s.splat(-1382.0 / 155_925.0);
    for c in [62.0 / 2835.0, -17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0] {
        p = s.fma(p, w, s.splat(c));
    }
    let near = s.fma(s.mul(x, w), p, x);
    s.select_lt(a, s.splat(0.25), near, far)
}

/// How many of `n` numbers fill whole vectors.
///
/// Loops over rows go by index up to there: zipped chunks of a slice divide by the chunk's length, which costs more than a short row's arithmetic.
#[inline(always)]
pub fn whole<S: Lanes>(n: usize) -> usize {
    n / S::LANES * S::LANES
}

/// `out ← by · x`. Panics if `x` is shorter than `out`.
#[inline(always)]
pub fn scale_into<S: Lanes>(s: S, by: f32, x: &[f32], out: &mut [f32]) {
    let (by, x, whole) = (s.splat(by), &x[..out.len()], whole::<S>(out.len()));
    for at in (0..whole).step_by(S::LANES) {
        s.store(&mut out[at..], s.mul(by, s.load(&x[at..])));
    }
    if whole < out.len() {
        s.store_part(&mut out[whole..], s.mul(by, s.load_part(&x[whole..])));
    }
}

/// `out ← x`, for rows too short for a call of the library's `memcpy`. Panics if `x` is shorter than `out`.
#[inline(always)]
pub fn copy<S: Lanes>(s: S, x: &[f32], out: &mut [f32]) {
    let (x, whole) = (&x[..out.len()], whole::<S>(out.len()));
    for at in (0..whole).step_by(S::LANES) {
        s.store(&mut out[at..], s.load(&x[at..]));
    }
    if whole < out.len() {
        s.store_part(&mut out[whole..], s.load_part(&x[whole..]));
    }
}

/// As [`scale_into`], with non-temporal stores if `non_temporal`: [`Lanes::store_non_temporal`].
#[inline(always)]
pub fn scale_into_non_temporal<S: Lanes>(s: S, non_temporal: bool, by: f32, x: &[f32], out: &mut [f32]) {
    if !non_temporal {
        return scale_into(s, by, x, out);
    }
    let (by, x, whole) = (s.splat(by), &x[..out.len()], whole::<S>(out.len()));
    for at in (0..whole).step_by(S::LANES) {
        s.store_non_temporal(&mut out[at..], s.mul(by, s.load(&x[at..])));
    }
    if whole < out.len() {
        s.store_part(&mut out[whole..], s.mul(by, s.load_part(&x[whole..])));
    }
}

/// `x ← by · x`
#[inline(always)]
pub fn scale<S: Lanes>(s: S, by: f32, x: &mut [f32]) {
    let by = s.splat(by);
    let mut x = x.chunks_exact_mut(S::LANES);
    for x in x.by_ref() {
        s.store(x, s.mul(by, s.load(x)));
    }
    let x = x.into_remainder();
    if !x.is_empty() {
        s.store_part(x, s.mul(by, s.load_part(x)));
    }
}

/// `ln(1 + eˣ)`, without overflow: `max(x, 0) + ln(1 + e^{-|x|})`.
#[inline(always)]
pub fn softplus<S: Lanes>(s: S, x: S::V) -> S::V {
    s.add(s.max(s.splat(0.0), x), log1p_unit(s, exp(s, neg_abs(s, x))))
}

/// `1 / (1 + e^{-x})`; also the derivative of [`softplus`].
#[inline(always)]
pub fn sigmoid<S: Lanes>(s: S, x: S::V) -> S::V {
    let e = exp(s, neg_abs(s, x));
    let numerator = s.select_lt(x, s.splat(0.0), e, s.splat(1.0));
    s.div(numerator, s.add(e, s.splat(1.0)))
}

/// `x σ(x)`, also known as swish.
#[inline(always)]
pub fn silu_lanes<S: Lanes>(s: S, x: S::V) -> S::V {
    s.mul(x, sigmoid(s, x))
}

/// The derivative of silu: `σ(x) (1 + x (1 − σ(x)))`.
#[inline(always)]
pub fn silu_slope<S: Lanes>(s: S, x: S::V) -> S::V {
    let g = sigmoid(s, x);
    s.mul(g, s.fma(x, s.sub(s.splat(1.0), g), s.splat(1.0)))
}

/// `eˣ − 1` for `x ≤ 0`, without cancellation for small `x`.
#[inline(always)]
pub fn exp_m1<S: Lanes>(s: S, x: S::V) -> S::V {
    // The Taylor series, sufficient down to −0.35.
    let mut near = s.splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0] {
        near = s.fma(near, x, s.splat(c));
    }
    let far = s.sub(exp(s, x), s.splat(1.0));
    s.select_lt(x, s.splat(-0.35), far, s.mul(near, x))
}

/// Elements per task of an element-wise loop.
const GRAIN: usize = 16 * 1024;

/// A function of vectors as a value, for [`map`] and [`zip`].
trait Op: Copy + Send + Sync {
    /// The function; unary ones ignore `b`.
    fn apply<S: Lanes>(self, s: S, a: S::V, b: S::V) -> S::V;
}

struct Apply<'a, O> {
    op: O,
    x: &'a mut [f32],
    y: Option<&'a [f32]>,
}

impl<O: Op> Kernel for Apply<'_, O> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let zero = s.splat(0.0);
        let mut at = 0;
        for x in self.x.chunks_mut(S::LANES) {
            let n = x.len();
            let b = self.y.map_or(zero, |y| s.load_part(&y[at..at + n]));
            let v = self.op.apply(s, s.load_part(x), b);
            s.store_part(x, v);
            at += n;
        }
    }
}

fn map<O: Op>(cx: &Cx, op: O, x: &mut [f32]) {
    cx.team.for_each(x.chunks_mut(GRAIN), |x| cx.isa.run(Apply { op, x, y: None }));
}

fn zip<O: Op>(cx: &Cx, op: O, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "element-wise operands of different lengths");
    cx.team.for_each(x.chunks_mut(GRAIN).zip(y.chunks(GRAIN)), |(x, y)| cx.isa.run(Apply { op, x, y: Some(y) }));
}

macro_rules! ops {
    ($($name:ident = |$s:ident, $a:ident, $b:ident| $body:expr;)*) => {$(
        #[derive(Clone, Copy)]
        struct $name;
        impl Op for $name {
            #[inline(always)]
            fn apply<S: Lanes>(self, $s: S, $a: S::V, $b: S::V) -> S::V { $body }
        }
    )*};
}

ops! {
    Exp = |s, a, _b| exp(s, a);
    Exp2 = |s, a, _b| exp2(s, a);
    OneMinusExp = |s, a, _b| s.sub(s.splat(0.0), exp_m1(s, a));
    NegExp = |s, a, _b| s.sub(s.splat(0.0), exp(s, a));
    Softplus = |s, a, _b| softplus(s, a);
    Sigmoid = |s, a, _b| sigmoid(s, a);
    Silu = |s, a, _b| silu_lanes(s, a);
    SiluTimes = |s, a, b| s.mul(silu_lanes(s, a), b);
    SiluSlope = |s, a, b| s.mul(silu_slope(s, a), b);
    Multiply = |s, a, b| s.mul(a, b);
}

/// `x ← 1 − eˣ` for `x ≤ 0`, without cancellation for small `x`.
pub fn one_minus_exp(cx: &Cx, x: &mut [f32]) {
    map(cx, OneMinusExp, x);
}

/// `x ← eˣ`
pub fn exp_slice(cx: &Cx, x: &mut [f32]) {
    map(cx, Exp, x);
}
/// `x ← 2ˣ`
pub fn exp2_slice(cx: &Cx, x: &mut [f32]) {
    map(cx, Exp2, x);
}
/// `x ← −eˣ`: the decay matrix of a state-space model, stored as its logarithm.
pub fn neg_exp(cx: &Cx, x: &mut [f32]) {
    map(cx, NegExp, x);
}
/// `x ← ln(1 + eˣ)`
pub fn softplus_slice(cx: &Cx, x: &mut [f32]) {
    map(cx, Softplus, x);
}
/// `x ← 1 / (1 + e^{-x})`
pub fn sigmoid_slice(cx: &Cx, x: &mut [f32]) {
    map(cx, Sigmoid, x);
}
/// `x ← x σ(x)`
pub fn silu(cx: &Cx, x: &mut [f32]) {
    map(cx, Silu, x);
}
/// `x ← silu(x) · y`: the gate of SwiGLU.
pub fn silu_times(cx: &Cx, x: &mut [f32], y: &[f32]) {
    zip(cx, SiluTimes, x, y);
}
/// `x ← silu'(x) · y`
pub fn silu_slope_times(cx: &Cx, x: &mut [f32], y: &[f32]) {
    zip(cx, SiluSlope, x, y);
}
/// `x ← x · y`
pub fn multiply(cx: &Cx, x: &mut [f32], y: &[f32]) {
    zip(cx, Multiply, x, y);
}

/// `Σ aᵢ bᵢ` of two slices of equal length.
#[inline(always)]
pub fn dot<S: Lanes>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let (n, mut acc) = (a.len(), [s.splat(0.0); 4]);
    let (b, fours) = (&b[..n], n / (4 * S::LANES) * (4 * S::LANES));
    for at in (0..fours).step_by(4 * S::LANES) {
        for (i, acc) in acc.iter_mut().enumerate() {
            let at = at + i * S::LANES;
            *acc = s.fma(s.load(&a[at..]), s.load(&b[at..]), *acc);
        }
    }
    let mut sum = s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3]));
    let whole = whole::<S>(n);
    for at in (fours..whole).step_by(S::LANES) {
        sum = s.fma(s.load(&a[at..]), s.load(&b[at..]), sum);
    }
    if whole < n {
        sum = s.fma(s.load_part(&a[whole..]), s.load_part(&b[whole..]), sum);
    }
    s.sum(sum)
}

/// `y ← y + a x`. Panics if `x` is shorter than `y`.
#[inline(always)]
pub fn axpy<S: Lanes>(s: S, a: f32, x: &[f32], y: &mut [f32]) {
    let (a, x, whole) = (s.splat(a), &x[..y.len()], whole::<S>(y.len()));
    for at in (0..whole).step_by(S::LANES) {
        let sum = s.fma(a, s.load(&x[at..]), s.load(&y[at..]));
        s.store(&mut y[at..], sum);
    }
    if whole < y.len() {
        let sum = s.fma(a, s.load_part(&x[whole..]), s.load_part(&y[whole..]));
        s.store_part(&mut y[whole..], sum);
    }
}
