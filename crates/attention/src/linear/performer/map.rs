//! The features, their gradients, and the random rows.

use longreach_simd::Cx;
use longreach_simd::product::{self, Into, Matrix};
use ndarray::{Array2, Array4, ArrayView4, s};

use super::{Inputs, Kernel};
use crate::linear::features::{by_tokens, exponentials, fresh};

impl Inputs<'_, f64> {
    /// In f64, as they read.
    pub(super) fn exact(&self, x: ArrayView4<'_, f64>) -> Array4<f64> {
        let ((b, t, g, k), m) = (x.dim(), self.w.dim().0);
        let root = (self.features() as f64).powf(-0.5);
        Array4::from_shape_fn((b, t, g, self.features()), |(b, t, g, i)| {
            let x = &x.slice(s![b, t, g, ..]) * (k as f64).powf(-0.25);
            let product = self.w.row(i % m).dot(&x) * if i < m { 1.0 } else { -1.0 };
            match self.kernel {
                Kernel::Relu => product.max(0.0) + self.epsilon,
                _ => root * ((product - x.dot(&x) / 2.0).exp() + self.epsilon),
            }
        })
    }
}

impl Inputs<'_> {
    fn root(&self) -> f32 {
        if self.kernel == Kernel::Relu { 1.0 } else { (self.features() as f32).powf(-0.5) }
    }

    /// `K^{-1/4} x`
    fn scaled(&self, x: ArrayView4<'_, f32>) -> Array4<f32> {
        let by = (x.dim().3 as f32).powf(-0.25);
        // One behind the other, whatever order the input's axes have in memory: products are made of it.
        x.as_standard_layout().mapv(|x| by * x)
    }

    /// `[B, T, G, K]` to `[B, T, G, F]`.
    pub(super) fn apply(&self, x: ArrayView4<'_, f32>, cx: &Cx) -> Array4<f32> {
        let ((b, t, g, k), m, features) = (x.dim(), self.w.dim().0, self.features());
        let scaled = self.scaled(x);
        let rows = self.w.as_standard_layout();
        let mut out = fresh((b, t, g, features));
        let size = product::Sizes { m: b * t * g, n: m, k };
        if let (Some(x), Some(w), Some(out)) = (scaled.as_slice(), rows.as_slice(), out.as_slice_mut()) {
            product::matmul(cx, size, Matrix::rows(x, k), Matrix::rows(w, k).t(), Into::Set, out, features);
        }
        let (root, epsilon) = (self.root(), self.epsilon as f32);
        by_tokens(cx, &mut out, |t, out| {
            for (mut out, x) in out.rows_mut().into_iter().zip(scaled.slice(s![.., t, .., ..]).rows()) {
                let Some(out) = out.as_slice_mut() else { continue };
                if self.kernel == Kernel::Relu {
                    out.iter_mut().for_each(|f| *f = f.max(0.0) + epsilon);
                    continue;
                }
                let half = x.dot(&x) / 2.0;
                let (plus, minus) = out.split_at_mut(m);
                minus.iter_mut().zip(&*plus).for_each(|(minus, plus)| *minus = -plus - half);
                plus.iter_mut().for_each(|plus| *plus -= half);
                exponentials(cx.isa, out);
                out.iter_mut().for_each(|f| *f = root * (*f + epsilon));
            }
        });
        out
    }

    /// The gradients to `x` and to the random rows from that to the features `f` of `x`.
    pub(super) fn spread(
        &self,
        x: ArrayView4<'_, f32>,
        f: &Array4<f32>,
        d: &Array4<f32>,
        cx: &Cx,
    ) -> (Array4<f32>, Array2<f32>) {
        let ((b, t, g, k), m) = (x.dim(), self.w.dim().0);
        let (root, epsilon) = (self.root(), self.epsilon as f32);
        // To the products `W x'`, and to half the square.
        let mut products = Array4::zeros((b, t, g, m + 1));
        by_tokens(cx, &mut products, |t, out| {
            let (f, d) = (f.slice(s![.., t.clone(), .., ..]), d.slice(s![.., t, .., ..]));
            for ((mut out, f), d) in out.rows_mut().into_iter().zip(f.rows()).zip(d.rows()) {
                for (i, (f, d)) in f.iter().zip(d).enumerate() {
                    match self.kernel {
                        Kernel::Relu => out[i] = if *f > epsilon { *d } else { 0.0 },
                        _ => {
                            let of_exponent = (f - root * epsilon) * d;
                            out[i % m] += if i < m { of_exponent } else { -of_exponent };
                            out[m] += of_exponent;
                        }
                    }
                }
            }
        });
        let scaled = self.scaled(x);
        let rows = self.w.as_standard_layout();
        let (mut dx, mut dw) = (Array4::zeros(x.dim()), Array2::zeros(self.w.dim()));
        if let (Some(x), Some(w), Some(products), Some(dx), Some(dw)) =
            (scaled.as_slice(), rows.as_slice(), products.as_slice(), dx.as_slice_mut(), dw.as_slice_mut())
        {
            let n = b * t * g;
            let to = Matrix::rows(products, m + 1);
            product::matmul(cx, product::Sizes { m: n, n: k, k: m }, to, Matrix::rows(w, k), Into::Set, dx, k);
            product::matmul(cx, product::Sizes { m, n: k, k: n }, to.t(), Matrix::rows(x, k), Into::Set, dw, k);
        }
        let by = (k as f32).powf(-0.25);
        by_tokens(cx, &mut dx, |t, dx| {
            let (x, products) = (scaled.slice(s![.., t.clone(), .., ..]), products.slice(s![.., t, .., ..]));
            for ((mut dx, x), products) in dx.rows_mut().into_iter().zip(x.rows()).zip(products.rows()) {
                dx.iter_mut().zip(x).for_each(|(dx, x)| *dx = by * (*dx - products[m] * x));
            }
        });
        (dx, dw)
    }
}

/// Random rows `[M, K]` that are orthogonal in blocks of `K`, each as long as a vector of `K` standard normal numbers; `normal` gives such numbers.
///
/// Drawn anew from time to time in training, with numbers that follow. Choromanski et al. 2021, §2.4.
pub fn projection(features: usize, width: usize, mut normal: impl FnMut() -> f64) -> Array2<f32> {
    let mut rows = Array2::<f64>::zeros((features, width));
    for i in 0..features {
        let block = i / width.max(1) * width;
        // Numbers that are not independent may never give a row that is left of those before it: then it is taken as it is.
        for last in (0..64).rev().map(|left| left == 0) {
            let drawn = ndarray::Array1::from_shape_fn(width, |_| normal());
            let mut row = drawn.clone();
            // Twice, or rounding leaves a part of what was taken out.
            for _ in 0..2 {
                for before in block..i {
                    let part = rows.row(before).dot(&row);
                    row.scaled_add(-part, &rows.row(before));
                }
            }
            let length = row.dot(&row).sqrt();
            if length > 1e-6 {
                rows.row_mut(i).assign(&(row / length));
                break;
            }
            if last {
                let length = drawn.dot(&drawn).sqrt().max(f64::MIN_POSITIVE);
                rows.row_mut(i).assign(&(drawn / length));
            }
        }
    }
    for mut row in rows.rows_mut() {
        let length = (0..width).map(|_| normal().powi(2)).sum::<f64>().sqrt();
        row *= length;
    }
    rows.mapv(|x| x as f32)
}
