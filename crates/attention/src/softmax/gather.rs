//! Tokens taken out of their order, and put back.

use longreach_simd::product::Stored;
use ndarray::{Array3, Array4, ArrayView3, ArrayView4, Zip};

/// For each sequence and head, which token stands at each place: `[B, H, N]`; a place may stay empty.
pub(super) struct Places(pub(super) Array3<Option<usize>>);

impl Places {
    /// The tokens of `x: [B, T, G, D]` as each head meets them: `[B, N, H, D]` in f32, zero where a place is empty.
    pub(super) fn take<T: Stored>(&self, x: ArrayView4<'_, T>) -> Array4<f32> {
        let (b, h, n) = self.0.dim();
        let (_, _, g, d) = x.dim();
        let mut out = Array4::zeros((b, n, h, d));
        for ((b, h, n), token) in self.0.indexed_iter() {
            if let Some(t) = *token {
                for i in 0..d {
                    out[[b, n, h, i]] = x[[b, t, h * g / self.0.dim().1, i]].widen();
                }
            }
        }
        out
    }

    /// As [`Places::take`], of `[B, T, H]`.
    pub(super) fn take_rows(&self, x: ArrayView3<'_, f32>) -> Array3<f32> {
        let (b, h, n) = self.0.dim();
        Array3::from_shape_fn((b, n, h), |(b, n, h)| self.0[[b, h, n]].map_or(0.0, |t| x[[b, t, h]]))
    }

    /// Writes what stands at the places to the tokens.
    pub(super) fn put(&self, x: &Array4<f32>, to: &mut Array4<f32>) {
        for ((b, h, n), token) in self.0.indexed_iter() {
            if let Some(t) = *token {
                let from = x.slice(ndarray::s![b, n, h, ..]);
                to.slice_mut(ndarray::s![b, t, h, ..]).assign(&from);
            }
        }
    }

    /// As [`Places::put`], of `[B, T, H]`.
    pub(super) fn put_rows(&self, x: &Array3<f32>, to: &mut Array3<f32>) {
        for ((b, h, n), token) in self.0.indexed_iter() {
            if let Some(t) = *token {
                to[[b, t, h]] = x[[b, n, h]];
            }
        }
    }

    /// Adds what stands at the places to the tokens of the group each head reads: `[B, N, H, D]` to `[B, T, G, D]`.
    pub(super) fn add(&self, x: &Array4<f32>, to: &mut Array4<f32>) {
        let (h, g) = (self.0.dim().1, to.dim().2);
        for ((b, head, n), token) in self.0.indexed_iter() {
            if let Some(t) = *token {
                let mut to = to.slice_mut(ndarray::s![b, t, head * g / h, ..]);
                Zip::from(&mut to).and(&x.slice(ndarray::s![b, n, head, ..])).for_each(|to, x| *to += x);
            }
        }
    }
}
