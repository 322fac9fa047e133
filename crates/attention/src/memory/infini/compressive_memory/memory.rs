//! One memory, unpacked, and what tokens add to it.

use longreach_simd::product::{Accumulate, Matrix, Sizes, tile};
use longreach_simd::{Lanes, math};

/// A memory with its last column stored apart: a product with one column more than whole vectors would spend a vector
/// on it.
pub(super) struct Memory<'m> {
    /// `[K, V]`
    pub(super) sums: &'m mut [f32],
    /// `z`, `[K]`
    pub(super) weights: &'m mut [f32],
}

impl<'m> Memory<'m> {
    pub(super) fn size(k: usize, v: usize) -> usize {
        k * v + k
    }

    /// A memory in a scratch buffer of [`Memory::size`] numbers.
    #[inline(always)]
    pub(super) fn new(room: &'m mut [f32], k: usize, v: usize) -> Self {
        let (sums, weights) = room.split_at_mut(k * v);
        Self { sums, weights }
    }

    pub(super) fn width(&self) -> usize {
        self.sums.len() / self.weights.len().max(1)
    }

    /// Loads `[K, V + 1]`.
    #[inline(always)]
    pub(super) fn unpack(&mut self, from: &[f32]) {
        let v = self.width();
        for (i, row) in from.chunks_exact(v + 1).enumerate() {
            self.sums[i * v..(i + 1) * v].copy_from_slice(&row[..v]);
            self.weights[i] = row[v];
        }
    }

    /// Stores `[K, V + 1]`.
    #[inline(always)]
    pub(super) fn pack(&self, to: &mut [f32]) {
        let v = self.width();
        for (i, row) in to.chunks_exact_mut(v + 1).enumerate() {
            row[..v].copy_from_slice(&self.sums[i * v..(i + 1) * v]);
            row[v] = self.weights[i];
        }
    }

    #[inline(always)]
    pub(super) fn copy_from(&mut self, other: &Memory<'_>) {
        self.sums.copy_from_slice(other.sums);
        self.weights.copy_from_slice(other.weights);
    }

    /// Whether any token has been written.
    #[inline(always)]
    pub(super) fn written(&self) -> bool {
        self.weights.iter().any(|z| *z != 0.0)
    }

    /// At the end of a segment: adds the pending update to the memory and clears it.
    #[inline(always)]
    pub(super) fn take<S: Lanes>(&mut self, s: S, pending: &mut Memory<'_>) {
        math::axpy(s, 1.0, pending.sums, self.sums);
        math::axpy(s, 1.0, pending.weights, self.weights);
        pending.sums.fill(0.0);
        pending.weights.fill(0.0);
    }

    /// Adds `Σ_i f_i r_iᵀ` to the sums and `Σ_i by_i f_i` to the weights; `by` is 1 for all if `None`.
    #[inline(always)]
    pub(super) fn add<S: Lanes>(&mut self, s: S, n: usize, features: &[f32], rows: &[f32], by: Option<&[f32]>) {
        let (k, v) = (self.weights.len(), self.width());
        let sizes = Sizes { m: k, n: v, k: n };
        tile(s, sizes, Matrix::rows(features, k).t(), Matrix::rows(rows, v), Accumulate::Add, self.sums, v);
        for (i, features) in features[..n * k].chunks_exact(k.max(1)).enumerate() {
            math::axpy(s, by.map_or(1.0, |by| by[i]), features, self.weights);
        }
    }

    /// The gradient with respect to features that read the memory: `M r_i + by_i z`.
    #[inline(always)]
    pub(super) fn feature_gradient<S: Lanes>(
        &self,
        s: S,
        n: usize,
        rows: &[f32],
        by: Option<&[f32]>,
        into: Accumulate,
        out: &mut [f32],
    ) {
        let (k, v) = (self.weights.len(), self.width());
        let sizes = Sizes { m: n, n: k, k: v };
        tile(s, sizes, Matrix::rows(rows, v), Matrix::rows(self.sums, v).t(), into, out, k);
        for (i, out) in out[..n * k].chunks_exact_mut(k.max(1)).enumerate() {
            math::axpy(s, by.map_or(1.0, |by| by[i]), self.weights, out);
        }
    }
}
