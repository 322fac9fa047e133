//! Activation functions of feed-forward layers, alone or as a gate, and their derivatives.

use crate::math::{exp, silu_lanes, silu_slope, tanh};
use crate::norm::Rows;
use crate::{Cx, Kernel, Lanes};

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x Φ(x)`, with the error function. Hendrycks and Gimpel 2016.
    Gelu,
    /// `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`, the tanh approximation of [`Activation::Gelu`].
    GeluTanh,
    /// `max(x, 0)`
    Relu,
    /// `max(x, 0)²`. So et al. 2021.
    Relu2,
    /// `x σ(x)`. Hendrycks and Gimpel 2016.
    Silu,
    /// The hyperbolic tangent.
    Tanh,
}

/// `√(2/π)`
const ROOT: f32 = 0.797_884_6;

/// `Φ(x)`, the normal distribution function: half of `erfc(|x|/√2)`, with a relative error of 1.2e-7, or one minus it.
/// Press et al., Numerical Recipes, §6.2.
#[inline(always)]
fn normal<S: Lanes>(s: S, x: S::V) -> S::V {
    let zero = s.splat(0.0);
    let a = s.mul(s.max(x, s.sub(zero, x)), s.splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = s.div(s.splat(1.0), s.fma(a, s.splat(0.5), s.splat(1.0)));
    let mut p = s.splat(0.170_872_77);
    for c in [
        -0.822_152_23,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ] {
        p = s.fma(p, t, s.splat(c));
    }
    let tail = s.mul(s.mul(t, s.splat(0.5)), exp(s, s.sub(p, s.mul(a, a))));
    s.select_lt(x, zero, tail, s.sub(s.splat(1.0), tail))
}

/// A function and its derivative.
trait Function: Copy + Send + Sync {
    fn of<S: Lanes>(self, s: S, x: S::V) -> S::V;
    fn slope<S: Lanes>(self, s: S, x: S::V) -> S::V;
}

macro_rules! functions {
    ($($name:ident = |$s:ident, $x:ident| $of:expr, $slope:expr;)*) => {$(
        #[derive(Clone, Copy)]
        struct $name;
        impl Function for $name {
            #[inline(always)]
            fn of<S: Lanes>(self, $s: S, $x: S::V) -> S::V { $of }
            #[inline(always)]
            fn slope<S: Lanes>(self, $s: S, $x: S::V) -> S::V { $slope }
        }
    )*};
}

/// The argument of the tanh of [`Activation::GeluTanh`], and its derivative.
#[inline(always)]
fn inside<S: Lanes>(s: S, x: S::V) -> (S::V, S::V) {
    let square = s.mul(x, x);
    let u = s.mul(s.mul(x, s.splat(ROOT)), s.fma(square, s.splat(0.044_715), s.splat(1.0)));
    (u, s.mul(s.splat(ROOT), s.fma(square, s.splat(3.0 * 0.044_715), s.splat(1.0))))
}

functions! {
    Gelu = |s, x| s.mul(x, normal(s, x)), {
        let bell = exp(s, s.mul(s.mul(x, x), s.splat(-0.5)));
        s.fma(s.mul(x, s.splat(0.398_942_3)), bell, normal(s, x))
    };
    GeluTanh = |s, x| {
        let half = s.mul(x, s.splat(0.5));
        s.fma(half, tanh(s, inside(s, x).0), half)
    }, {
        let (u, du) = inside(s, x);
        let t = tanh(s, u);
        let half = s.splat(0.5);
        let bell = s.sub(s.splat(1.0), s.mul(t, t));
        s.fma(half, t, s.fma(s.mul(s.mul(x, half), bell), du, half))
    };
    Relu = |s, x| s.max(s.splat(0.0), x), s.select_lt(s.splat(0.0), x, s.splat(1.0), s.splat(0.0));
    Relu2 = |s, x| {
        let y = s.max(s.splat(0.0), x);
        s.mul(y, y)
    }, s.mul(s.splat(2.0), s.max(s.splat(0.0), x));
    Silu = |s, x| silu_lanes(s, x), silu_slope(s, x);
    Tanh = |s, x| tanh(s, x), {
        let t = tanh(s, x);
        s.sub(s.splat(1.0), s.mul(t, t))
    };
}

macro_rules! with {
    ($which:expr, $f:ident => $body:expr) => {
        match $which {
            Activation::Gelu => {
                let $f = Gelu;
                $body
            }
            Activation::GeluTanh => {
                let $f = GeluTanh;
                $body
            }
            Activation::Relu => {
                let $f = Relu;
                $body
            }
            Activation::Relu2 => {
                let $f = Relu2;
                $body
            }
            Activation::Silu => {
                let $f = Silu;
                $body
            }
            Activation::Tanh => {
                let $f = Tanh;
                $body
            }
        }
    };
}

/// Elements per task.
const GRAIN: usize = 16 * 1024;

impl Activation {
    /// `x ← f(x)`
    pub fn apply(self, cx: &Cx, x: &mut [f32]) {
        with!(self, f => cx.team.for_each(x.chunks_mut(GRAIN), |x| cx.isa.run(Apply { f, x })));
    }

    /// `x ← f'(x) d`
    pub fn slope_times(self, cx: &Cx, x: &mut [f32], d: &[f32]) {
        assert_eq!(x.len(), d.len(), "element-wise operands of different lengths");
        let parts = |(x, d): (&mut [f32], &[f32])| with!(self, f => cx.isa.run(Slope { f, x, d }));
        cx.team.for_each(x.chunks_mut(GRAIN).zip(d.chunks(GRAIN)), parts);
    }

    /// `out = f(a) ⊙ b`, where the rows of `x` are `[a | b]`: the gate of GeGLU and its variants. Shazeer 2020.
    pub fn gated(self, cx: &Cx, x: Rows<'_>, out: &mut [f32]) {
        let half = x.width / 2;
        assert_eq!(out.len(), x.count * half, "gated output");
        let rows = (GRAIN / half.max(1)).max(1);
        cx.team.for_each(out.chunks_mut(rows * half.max(1)).enumerate(), |(i, out)| {
            with!(self, f => cx.isa.run(Gated { f, x, first: i * rows, out }));
        });
    }

    /// The gradient of [`Activation::gated`] with respect to `x`, in contiguous rows.
    pub fn gated_backward(self, cx: &Cx, x: Rows<'_>, d: &[f32], dx: &mut [f32]) {
        let width = x.width.max(1);
        let rows = (GRAIN / width).max(1);
        cx.team.for_each(dx.chunks_mut(rows * width).enumerate(), |(i, dx)| {
            with!(self, f => cx.isa.run(GatedBackward { f, x, first: i * rows, d, dx }));
        });
    }
}

struct Apply<'a, F> {
    f: F,
    x: &'a mut [f32],
}

impl<F: Function> Kernel for Apply<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        for x in self.x.chunks_mut(S::LANES) {
            s.store_part(x, self.f.of(s, s.load_part(x)));
        }
    }
}

struct Slope<'a, F> {
    f: F,
    x: &'a mut [f32],
    d: &'a [f32],
}

impl<F: Function> Kernel for Slope<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        for (x, d) in self.x.chunks_mut(S::LANES).zip(self.d.chunks(S::LANES)) {
            s.store_part(x, s.mul(self.f.slope(s, s.load_part(x)), s.load_part(d)));
        }
    }
}

struct Gated<'a, F> {
    f: F,
    x: Rows<'a>,
    first: usize,
    out: &'a mut [f32],
}

impl<F: Function> Kernel for Gated<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let half = self.x.width / 2;
        for (i, out) in self.out.chunks_mut(half).enumerate() {
            let (a, b) = self.x.row(self.first + i).split_at(half);
            for ((a, b), y) in a.chunks(S::LANES).zip(b.chunks(S::LANES)).zip(out.chunks_mut(S::LANES)) {
                s.store_part(y, s.mul(self.f.of(s, s.load_part(a)), s.load_part(b)));
            }
        }
    }
}

struct GatedBackward<'a, F> {
    f: F,
    x: Rows<'a>,
    first: usize,
    d: &'a [f32],
    dx: &'a mut [f32],
}

impl<F: Function> Kernel for GatedBackward<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let half = self.x.width / 2;
        for (i, dx) in self.dx.chunks_mut(self.x.width).enumerate() {
            let (a, b) = self.x.row(self.first + i).split_at(half);
            let d = &self.d[(self.first + i) * half..][..half];
            let (da, db) = dx.split_at_mut(half);
            for at in (0..half).step_by(S::LANES) {
                let part = at..(at + S::LANES).min(half);
                let (a, b) = (s.load_part(&a[part.clone()]), s.load_part(&b[part.clone()]));
                let d = s.load_part(&d[part.clone()]);
                s.store_part(&mut da[part.clone()], s.mul(s.mul(d, b), self.f.slope(s, a)));
                s.store_part(&mut db[part], s.mul(d, self.f.of(s, a)));
            }
        }
    }
}
