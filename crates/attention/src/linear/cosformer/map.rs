//! The features and their gradients.

use std::f64::consts::FRAC_PI_2;

use longreach_simd::{Cx, Lanes};
use ndarray::{Array4, ArrayView4};

use super::Inputs;
use crate::linear::features::{OfRows, each, unwritten};

impl Inputs<'_, f64> {
    /// In f64, as they read.
    pub(super) fn exact(&self, x: ArrayView4<'_, f64>) -> Array4<f64> {
        let (b, t, g, k) = x.dim();
        Array4::from_shape_fn((b, t, g, 2 * k), |(b, t, g, i)| {
            let angle = FRAC_PI_2 * self.positions[[b, t]] / self.length;
            x[[b, t, g, i % k]].max(0.0) * if i < k { angle.sin() } else { angle.cos() }
        })
    }
}

impl Inputs<'_> {
    /// `[B, T, G, K]` to `[B, T, G, 2 K]`.
    pub(super) fn apply(&self, x: ArrayView4<'_, f32>, cx: &Cx) -> Array4<f32> {
        let (b, t, g, k) = x.dim();
        let mut out = unwritten((b, t, g, 2 * k));
        each(cx, &Turned(self), [x], &mut out);
        out
    }

    /// The gradient to `x` from that to its features.
    pub(super) fn spread(&self, x: ArrayView4<'_, f32>, d: &Array4<f32>, cx: &Cx) -> Array4<f32> {
        let mut out = unwritten(x.dim());
        each(cx, &Back(Turned(self)), [x, d.view()], &mut out);
        out
    }
}

/// A row to its features.
pub(super) struct Turned<'a, 'x>(pub(super) &'a Inputs<'x>);

impl Turned<'_, '_> {
    /// The sine and the cosine of the angle of row `i`.
    fn turn(&self, i: usize) -> (f32, f32) {
        let (_, t, g, _) = self.0.q.dim();
        let position = f64::from(self.0.positions[[i / g / t, i / g % t]]);
        let (sin, cos) = (FRAC_PI_2 * position / self.0.length).sin_cos();
        (sin as f32, cos as f32)
    }
}

impl OfRows<1> for Turned<'_, '_> {
    #[inline(always)]
    fn row<S: Lanes>(&self, s: S, i: usize, [x]: [&[f32]; 1], out: &mut [f32]) {
        let (sin, cos) = self.turn(i);
        let (zero, sin, cos) = (s.splat(0.0), s.splat(sin), s.splat(cos));
        let (of_sin, of_cos) = out.split_at_mut(x.len());
        let out = of_sin.chunks_mut(S::LANES).zip(of_cos.chunks_mut(S::LANES));
        for (x, (of_sin, of_cos)) in x.chunks(S::LANES).zip(out) {
            let x = s.load_part(x);
            let above = s.select_lt(x, zero, zero, x);
            s.store_part(of_sin, s.mul(sin, above));
            s.store_part(of_cos, s.mul(cos, above));
        }
    }
}

/// The gradient to a row from that to its features.
struct Back<'a, 'x>(Turned<'a, 'x>);

impl OfRows<2> for Back<'_, '_> {
    #[inline(always)]
    fn row<S: Lanes>(&self, s: S, i: usize, [x, d]: [&[f32]; 2], out: &mut [f32]) {
        let (sin, cos) = self.0.turn(i);
        let (zero, sin, cos) = (s.splat(0.0), s.splat(sin), s.splat(cos));
        let (of_sin, of_cos) = d.split_at(x.len());
        let d = of_sin.chunks(S::LANES).zip(of_cos.chunks(S::LANES));
        for ((out, x), (of_sin, of_cos)) in out.chunks_mut(S::LANES).zip(x.chunks(S::LANES)).zip(d) {
            let slope = s.fma(sin, s.load_part(of_sin), s.mul(cos, s.load_part(of_cos)));
            s.store_part(out, s.select_lt(zero, s.load_part(x), slope, zero));
        }
    }
}
