//! The features and their gradients.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayView4, Zip, s};

use super::Map;
use crate::linear::features::{by_tokens, exponentials, fresh};

impl Map {
    /// In f64, as they read.
    pub(super) fn exact(self, x: ArrayView4<'_, f64>) -> Array4<f64> {
        match self {
            Map::Elu => x.mapv(|x| if x > 0.0 { x + 1.0 } else { x.exp() }),
            Map::Relu => x.mapv(|x| x.max(0.0)),
            Map::Relu2 => x.mapv(|x| x.max(0.0).powi(2)),
            Map::Exp => x.mapv(f64::exp),
            Map::Identity => x.to_owned(),
            Map::Taylor => {
                let (b, t, g, k) = x.dim();
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

    /// `[B, T, G, K]` to `[B, T, G, F]`.
    pub(super) fn apply(self, x: ArrayView4<'_, f32>, cx: &Cx) -> Array4<f32> {
        let (b, t, g, k) = x.dim();
        let mut out = fresh((b, t, g, self.features(k)));
        by_tokens(cx, &mut out, |t, out| {
            for (mut out, x) in out.rows_mut().into_iter().zip(x.slice(s![.., t, .., ..]).rows()) {
                // A token's rows are contiguous: what calls this has checked it.
                let (Some(out), Some(x)) = (out.as_slice_mut(), x.to_slice()) else { continue };
                match self {
                    Map::Elu => {
                        out.iter_mut().zip(x).for_each(|(out, x)| *out = x.min(0.0));
                        exponentials(cx.isa, out);
                        out.iter_mut().zip(x).for_each(|(out, x)| *out += x.max(0.0));
                    }
                    Map::Relu => out.iter_mut().zip(x).for_each(|(out, x)| *out = x.max(0.0)),
                    Map::Relu2 => out.iter_mut().zip(x).for_each(|(out, x)| *out = x.max(0.0) * x.max(0.0)),
                    Map::Exp => {
                        out.iter_mut().zip(x).for_each(|(out, x)| *out = *x);
                        exponentials(cx.isa, out);
                    }
                    Map::Identity => out.iter_mut().zip(x).for_each(|(out, x)| *out = *x),
                    Map::Taylor => {
                        out[0] = 1.0;
                        out[1..=k].iter_mut().zip(x).for_each(|(out, x)| *out = *x);
                        for (row, a) in out[1 + k..].chunks_mut(k).zip(x) {
                            let a = a * std::f32::consts::FRAC_1_SQRT_2;
                            row.iter_mut().zip(x).for_each(|(out, b)| *out = a * b);
                        }
                    }
                }
            }
        });
        out
    }

    /// The gradient to `x` from that to its features `f`.
    pub(super) fn backward(self, x: ArrayView4<'_, f32>, f: &Array4<f32>, d: &Array4<f32>, cx: &Cx) -> Array4<f32> {
        let k = x.dim().3;
        let mut out = fresh(x.dim());
        by_tokens(cx, &mut out, |t, out| {
            let part = |of: &Array4<f32>| of.slice(s![.., t.clone(), .., ..]).to_owned();
            let (x, f, d) = (x.slice(s![.., t.clone(), .., ..]), part(f), part(d));
            match self {
                Map::Elu => Zip::from(out).and(&f).and(&d).for_each(|out, f, d| *out = d * f.min(1.0)),
                Map::Relu => Zip::from(out).and(x).and(&d).for_each(|out, x, d| *out = if *x > 0.0 { *d } else { 0.0 }),
                Map::Relu2 => Zip::from(out).and(x).and(&d).for_each(|out, x, d| *out = 2.0 * d * x.max(0.0)),
                Map::Exp => Zip::from(out).and(&f).and(&d).for_each(|out, f, d| *out = d * f),
                Map::Identity => out.assign(&d),
                Map::Taylor => Zip::from(out.rows_mut()).and(x.rows()).and(d.rows()).for_each(|mut out, x, d| {
                    for i in 0..k {
                        let pairs = (0..k).map(|j| (d[1 + k + i * k + j] + d[1 + k + j * k + i]) * x[j]).sum::<f32>();
                        out[i] = d[1 + i] + pairs * std::f32::consts::FRAC_1_SQRT_2;
                    }
                }),
            }
        });
        out
    }
}
