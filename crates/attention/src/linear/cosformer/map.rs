//! The feature map and its gradient.

use std::f64::consts::FRAC_PI_2;

use longreach_simd::{Cx, Lanes};
use ndarray::{Array4, ArrayView4};

use super::Inputs;
use crate::linear::features::{OfRows, each, unwritten};

impl Inputs<'_, f64> {
    /// The features in f64, by definition.
    pub(super) fn exact(&self, x: ArrayView4<'_, f64>) -> Array4<f64> {
        let (b, t, g, k) = x.dim();
        Array4::from_shape_fn((b, t, g, 2 * k), |(b, t, g, i)| {
            let angle = FRAC_PI_2 * self.positions[[b, t]] / self.length;
            x[[b, t, g, i % k]].max(0.0) * if i < k { angle.sin() } else { angle.cos() }
        })
    }
}

impl Inputs<'_> {
    /// Maps `[B, T, G, K]` to the features `[B, T, G, 2 K]`.
    pub(super) fn apply(&self, x: ArrayView4<'_, f32>, cx: &Cx) -> Array4<f32> {
        let (b, t, g, k) = x.dim();
        let mut out = unwritten((b, t, g, 2 * k));
        each(cx, &AngleFeatures(self), [x], &mut out);
        out
    }

    /// Returns the gradient to `x`, given the gradient `d` to its features.
    pub(super) fn features_backward(&self, x: ArrayView4<'_, f32>, d: &Array4<f32>, cx: &Cx) -> Array4<f32> {
        let mut out = unwritten(x.dim());
        each(cx, &AngleFeaturesBackward(AngleFeatures(self)), [x, d.view()], &mut out);
        out
    }
}

/// Computes the features of a row.
pub(super) struct AngleFeatures<'a, 'x>(pub(super) &'a Inputs<'x>);

impl AngleFeatures<'_, '_> {
    /// The sine and cosine of the angle of row `i`.
    fn sin_cos(&self, i: usize) -> (f32, f32) {
        let (_, t, g, _) = self.0.q.dim();
        let position = f64::from(self.0.positions[[i / g / t, i / g % t]]);
        let (sin, cos) = (FRAC_PI_2 * position / self.0.length).sin_cos();
        (sin as f32, cos as f32)
    }
}

impl OfRows<1> for AngleFeatures<'_, '_> {
    #[inline(always)]
    fn row<S: Lanes>(&self, s: S, i: usize, [x]: [&[f32]; 1], out: &mut [f32]) {
        let (sin, cos) = self.sin_cos(i);
        let (zero, sin, cos) = (s.splat(0.0), s.splat(sin), s.splat(cos));
        let (of_sin, of_cos) = out.split_at_mut(x.len());
        let out = of_sin.chunks_mut(S::LANES).zip(of_cos.chunks_mut(S::LANES));
        for (x, (of_sin, of_cos)) in x.chunks(S::LANES).zip(out) {
            let x = s.load_part(x);
            let positive = s.select_lt(x, zero, zero, x);
            s.store_part(of_sin, s.mul(sin, positive));
            s.store_part(of_cos, s.mul(cos, positive));
        }
    }
}

/// Computes the gradient to a row from the gradient to its features.
struct AngleFeaturesBackward<'a, 'x>(AngleFeatures<'a, 'x>);

impl OfRows<2> for AngleFeaturesBackward<'_, '_> {
    #[inline(always)]
    fn row<S: Lanes>(&self, s: S, i: usize, [x, d]: [&[f32]; 2], out: &mut [f32]) {
        let (sin, cos) = self.0.sin_cos(i);
        let (zero, sin, cos) = (s.splat(0.0), s.splat(sin), s.splat(cos));
        let (of_sin, of_cos) = d.split_at(x.len());
        let d = of_sin.chunks(S::LANES).zip(of_cos.chunks(S::LANES));
        for ((out, x), (of_sin, of_cos)) in out.chunks_mut(S::LANES).zip(x.chunks(S::LANES)).zip(d) {
            let slope = s.fma(sin, s.load_part(of_sin), s.mul(cos, s.load_part(of_cos)));
            s.store_part(out, s.select_lt(zero, s.load_part(x), slope, zero));
        }
    }
}
