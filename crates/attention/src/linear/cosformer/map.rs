//! The features and their gradients.

use std::f64::consts::FRAC_PI_2;

use longreach_simd::Cx;
use ndarray::{Array4, ArrayView4, s};

use super::Inputs;
use crate::linear::features::{by_tokens, unwritten};

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
    /// The sine and the cosine of a token's angle.
    fn turn(&self, b: usize, t: usize) -> (f32, f32) {
        let (sin, cos) = (FRAC_PI_2 * f64::from(self.positions[[b, t]]) / self.length).sin_cos();
        (sin as f32, cos as f32)
    }

    /// `[B, T, G, K]` to `[B, T, G, 2 K]`.
    pub(super) fn apply(&self, x: ArrayView4<'_, f32>, cx: &Cx) -> Array4<f32> {
        let (b, t, g, k) = x.dim();
        let mut out = unwritten((b, t, g, 2 * k));
        by_tokens(cx, &mut out, |tokens, out| {
            for (t, b) in tokens.clone().flat_map(|t| (0..x.dim().0).map(move |b| (t, b))) {
                let (sin, cos) = self.turn(b, t);
                let mut out = out.slice_mut(s![b, t - tokens.start, .., ..]);
                for (mut out, x) in out.rows_mut().into_iter().zip(x.slice(s![b, t, .., ..]).rows()) {
                    for (i, x) in x.iter().enumerate() {
                        (out[i], out[k + i]) = (sin * x.max(0.0), cos * x.max(0.0));
                    }
                }
            }
        });
        out
    }

    /// The gradient to `x` from that to its features.
    pub(super) fn spread(&self, x: ArrayView4<'_, f32>, d: &Array4<f32>, cx: &Cx) -> Array4<f32> {
        let k = x.dim().3;
        let mut out = unwritten(x.dim());
        by_tokens(cx, &mut out, |tokens, out| {
            for (t, b) in tokens.clone().flat_map(|t| (0..x.dim().0).map(move |b| (t, b))) {
                let (sin, cos) = self.turn(b, t);
                let mut out = out.slice_mut(s![b, t - tokens.start, .., ..]);
                let rows = x.slice(s![b, t, .., ..]);
                for (g, (mut out, x)) in out.rows_mut().into_iter().zip(rows.rows()).enumerate() {
                    let d = d.slice(s![b, t, g, ..]);
                    for (i, x) in x.iter().enumerate() {
                        out[i] = if *x > 0.0 { sin * d[i] + cos * d[k + i] } else { 0.0 };
                    }
                }
            }
        });
        out
    }
}
