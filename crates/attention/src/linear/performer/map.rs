//! The feature map, its gradient, and the random projection.

use longreach_simd::product::{self, Accumulate, Matrix};
use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Lanes, math};
use ndarray::{Array2, Array4, ArrayView4, s};

use super::{Inputs, Kernel};
use crate::linear::features::{OfRows, by_tokens, each, fresh};

impl Inputs<'_, f64> {
    /// The features in f64, by definition.
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
        // Contiguous in row-major order whatever the layout of the input, as the matrix products require.
        x.as_standard_layout().mapv(|x| by * x)
    }

    /// Maps `[B, T, G, K]` to the features `[B, T, G, F]`.
    pub(super) fn apply(&self, x: ArrayView4<'_, f32>, cx: &Cx) -> Array4<f32> {
        let ((b, t, g, k), m, features) = (x.dim(), self.w.dim().0, self.features());
        let scaled = self.scaled(x);
        let rows = self.w.as_standard_layout();
        let mut out = fresh((b, t, g, features));
        let size = product::Sizes { m: b * t * g, n: m, k };
        if let (Some(x), Some(w), Some(out)) = (scaled.as_slice(), rows.as_slice(), out.as_slice_mut()) {
            product::matmul(cx, size, Matrix::rows(x, k), Matrix::rows(w, k).t(), Accumulate::Replace, out, features);
        }
        each(cx, &self.of_products(), [scaled.view()], &mut out);
        out
    }

    fn of_products(&self) -> OfProducts {
        OfProducts { kernel: self.kernel, rows: self.w.dim().0, root: self.root(), epsilon: self.epsilon as f32 }
    }

    /// The feature map of single rows; `rows` is the projection `W`, contiguous.
    pub(super) fn single_row<'w>(&self, rows: &'w [f32]) -> SingleRow<'w> {
        SingleRow { rows, by: (self.w.dim().1 as f32).powf(-0.25), of_products: self.of_products() }
    }

    /// Returns the gradients to `x` and to `W`, given the features `f` of `x` and the gradient `d` to them.
    pub(super) fn features_backward(
        &self,
        x: ArrayView4<'_, f32>,
        f: &Array4<f32>,
        d: &Array4<f32>,
        cx: &Cx,
    ) -> (Array4<f32>, Array2<f32>) {
        let ((b, t, g, k), m) = (x.dim(), self.w.dim().0);
        let (root, epsilon) = (self.root(), self.epsilon as f32);
        // Columns 0 to M are the gradients to the products `W x'`, column M is that to `−‖x'‖² / 2`.
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
            product::matmul(
                cx,
                product::Sizes { m: n, n: k, k: m },
                to,
                Matrix::rows(w, k),
                Accumulate::Replace,
                dx,
                k,
            );
            product::matmul(
                cx,
                product::Sizes { m, n: k, k: n },
                to.t(),
                Matrix::rows(x, k),
                Accumulate::Replace,
                dw,
                k,
            );
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

/// Computes features in place from the products `W x'`, which are stored in the first `M` features of each row.
pub(super) struct OfProducts {
    kernel: Kernel,
    rows: usize,
    root: f32,
    epsilon: f32,
}

impl OfRows<1> for OfProducts {
    #[inline(always)]
    fn row<S: Lanes>(&self, s: S, _: usize, [x]: [&[f32]; 1], out: &mut [f32]) {
        let (zero, root, epsilon) = (s.splat(0.0), s.splat(self.root), s.splat(self.epsilon));
        if self.kernel == Kernel::Relu {
            for f in out.chunks_mut(S::LANES) {
                let product = s.load_part(f);
                s.store_part(f, s.add(s.select_lt(product, zero, zero, product), epsilon));
            }
            return;
        }
        let half = s.splat(math::dot(s, x, x) / 2.0);
        let (plus, minus) = out.split_at_mut(self.rows);
        for (minus, plus) in minus.chunks_mut(S::LANES).zip(plus.chunks(S::LANES)) {
            let f = math::exp(s, s.sub(s.sub(zero, s.load_part(plus)), half));
            s.store_part(minus, s.mul(root, s.add(f, epsilon)));
        }
        for plus in plus.chunks_mut(S::LANES) {
            let f = math::exp(s, s.sub(s.load_part(plus), half));
            s.store_part(plus, s.mul(root, s.add(f, epsilon)));
        }
    }
}

/// Computes the features of a single row, for decoding.
pub(super) struct SingleRow<'w> {
    /// `[M, K]`
    rows: &'w [f32],
    /// `K^{-1/4}`
    by: f32,
    of_products: OfProducts,
}

impl OfRows<1> for SingleRow<'_> {
    #[inline(always)]
    fn row<S: Lanes>(&self, s: S, i: usize, [x]: [&[f32]; 1], out: &mut [f32]) {
        let k = x.len();
        let scaled = &mut Scratch::new(k)[..];
        math::scale_into(s, self.by, x, scaled);
        for (i, out) in out[..self.of_products.rows].iter_mut().enumerate() {
            *out = math::dot(s, &self.rows[i * k..(i + 1) * k], scaled);
        }
        self.of_products.row(s, i, [&*scaled], out);
    }
}

/// Draws a random projection `[M, K]`: rows are orthogonal in blocks of `K`, and each has the norm of a vector of `K`
/// standard normal numbers. `normal` returns such numbers.
///
/// Training redraws the projection from time to time, with the next numbers. Choromanski et al. 2021, §2.4.
pub fn projection(features: usize, width: usize, mut normal: impl FnMut() -> f64) -> Array2<f32> {
    let mut rows = Array2::<f64>::zeros((features, width));
    for i in 0..features {
        let block = i / width.max(1) * width;
        // A poor source of numbers may never give a linearly independent row; the last draw is then used without
        // orthogonalisation.
        for last in (0..64).rev().map(|remaining| remaining == 0) {
            let drawn = ndarray::Array1::from_shape_fn(width, |_| normal());
            let mut row = drawn.clone();
            // Gram-Schmidt is applied twice, because rounding leaves a remainder of the projections after once.
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
