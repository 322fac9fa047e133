//! The feature maps and their gradients.

use longreach_simd::{Cx, Lanes, math};
use ndarray::{Array4, ArrayView4};

use super::Map;
use crate::linear::features::{OfRows, each, unwritten};

impl Map {
    /// The features in f64, by definition.
    pub(super) fn exact(self, x: ArrayView4<'_, f64>) -> Array4<f64> {
        match self {
            Map::Elu => x.mapv(|x| if x > 0.0 { x + 1.0 } else { x.exp() }),
            Map::Relu => x.mapv(|x| x.max(0.0)),
            Map::Relu2 => x.mapv(|x| x.max(0.0).powi(2)),
            Map::Exp => x.mapv(f64::exp),
            Map::Identity => x.to_owned(),
            Map::Taylor | Map::Based => {
                let (b, t, g, k) = x.dim();
                let x = if self == Map::Based { x.mapv(|x| x * (k as f64).powf(-0.25)) } else { x.to_owned() };
                Array4::from_shape_fn((b, t, g, self.features(k)), |(b, t, g, i)| match i {
                    0 => 1.0,
                    i if i <= k => x[[b, t, g, i - 1]],
                    i => {
                        let pair = i - 1 - k;
                        x[[b, t, g, pair / k]] * x[[b, t, g, pair % k]] * std::f64::consts::FRAC_1_SQRT_2
                    }
                })
            }
        }
    }

    /// Maps `[B, T, G, K]` to the features `[B, T, G, F]`.
    pub(super) fn apply(self, x: ArrayView4<'_, f32>, cx: &Cx) -> Array4<f32> {
        let (b, t, g, k) = x.dim();
        let mut out = unwritten((b, t, g, self.features(k)));
        each(cx, &Apply(self), [x], &mut out);
        out
    }

    /// Returns the gradient to `x`, given its features `f` and the gradient `d` to them.
    pub(super) fn backward(self, x: ArrayView4<'_, f32>, f: &Array4<f32>, d: Array4<f32>, cx: &Cx) -> Array4<f32> {
        if !self.squares() {
            let mut d = d;
            each(cx, &InPlace(self), [x, f.view()], &mut d);
            return d;
        }
        let mut out = unwritten(x.dim());
        each(cx, &TaylorBackward(self), [x, d.view()], &mut out);
        out
    }
}

/// Computes the features of a row.
pub(super) struct Apply(pub(super) Map);

impl OfRows<1> for Apply {
    #[inline(always)]
    fn row<S: Lanes>(&self, s: S, _: usize, [x]: [&[f32]; 1], out: &mut [f32]) {
        self.0.of_row(s, x, out);
    }
}

impl Map {
    /// Computes the features of a row.
    #[inline(always)]
    pub(in crate::linear) fn of_row<S: Lanes>(self, s: S, x: &[f32], out: &mut [f32]) {
        let (zero, k) = (s.splat(0.0), x.len());
        if self.squares() {
            let channel = self.channel(k);
            let root = channel * channel * std::f32::consts::FRAC_1_SQRT_2;
            out[0] = 1.0;
            math::scale_into(s, channel, x, &mut out[1..=k]);
            for (row, a) in out[1 + k..].chunks_exact_mut(k.max(1)).zip(x) {
                math::scale_into(s, a * root, x, row);
            }
            return;
        }
        for (out, x) in out.chunks_mut(S::LANES).zip(x.chunks(S::LANES)) {
            let x = s.load_part(x);
            let positive = s.select_lt(x, zero, zero, x);
            let y = match self {
                Map::Elu => s.add(math::exp(s, s.select_lt(x, zero, x, zero)), positive),
                Map::Relu => positive,
                Map::Relu2 => s.mul(positive, positive),
                Map::Exp => math::exp(s, x),
                Map::Identity | Map::Taylor | Map::Based => x,
            };
            s.store_part(out, y);
        }
    }
}

/// Computes the gradient to a row from the gradient to its Taylor features.
struct TaylorBackward(Map);

impl OfRows<2> for TaylorBackward {
    #[inline(always)]
    fn row<S: Lanes>(&self, s: S, _: usize, [x, d]: [&[f32]; 2], out: &mut [f32]) {
        let (k, channel) = (x.len(), self.0.channel(x.len()));
        let root = channel * channel * std::f32::consts::FRAC_1_SQRT_2;
        math::scale_into(s, channel, &d[1..=k], out);
        for (i, row) in d[1 + k..].chunks_exact(k.max(1)).enumerate() {
            out[i] += root * math::dot(s, row, x);
            math::axpy(s, root * x[i], row, out);
        }
    }
}

/// Turns the gradient to features into the gradient to the row, for maps with one feature per channel.
struct InPlace(Map);

impl OfRows<2> for InPlace {
    #[inline(always)]
    fn row<S: Lanes>(&self, s: S, _: usize, [x, f]: [&[f32]; 2], d: &mut [f32]) {
        self.0.slope(s, x, f, d);
    }
}

impl Map {
    /// Turns `d`, the gradient to the features `f` of `x`, into the gradient to `x`.
    #[inline(always)]
    fn slope<S: Lanes>(self, s: S, x: &[f32], f: &[f32], d: &mut [f32]) {
        let zero = s.splat(0.0);
        for ((out, x), f) in d.chunks_mut(S::LANES).zip(x.chunks(S::LANES)).zip(f.chunks(S::LANES)) {
            let (x, f, d) = (s.load_part(x), s.load_part(f), s.load_part(out));
            let y = match self {
                Map::Elu => s.mul(d, s.min(f, s.splat(1.0))),
                Map::Relu => s.select_lt(zero, x, d, zero),
                Map::Relu2 => s.mul(s.mul(s.splat(2.0), d), s.select_lt(x, zero, zero, x)),
                Map::Exp => s.mul(d, f),
                Map::Identity | Map::Taylor | Map::Based => d,
            };
            s.store_part(out, y);
        }
    }
}
