//! Memory recall of the hierarchical memory transformer: cross-attention from a segment's summary to the memories of
//! earlier segments.
//!
//! $$ p = \mathrm{softmax}\!\left( R^{-1/2}\,(s W_q)(m W_k)^\top \right) m $$
//!
//! The values are the memories themselves, without a projection; the result is zero if there are none. O(N D R) time
//! per summary. He et al. 2025 (HMT), as in the authors' code.

use ndarray::{Array2, Array3, ArrayView2, ArrayView3};

use crate::{Error, error};

mod backward;
mod chunk;
mod naive;
pub(crate) mod operation;

pub use backward::{Gradient, backward};
pub use chunk::chunk;
pub use naive::naive;

const OP: &str = "hmt";

/// The inputs; `F` is f32, or f64 for the definition.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, F = f32> {
    /// Summaries, `[B, Q, D]`
    pub s: ArrayView3<'a, F>,
    /// Memories, the oldest first, `[B, N, D]`
    pub m: ArrayView3<'a, F>,
    /// `W_q`, `[D, R]`
    pub wq: ArrayView2<'a, F>,
    /// `W_k`, `[D, R]`
    pub wk: ArrayView2<'a, F>,
}

impl<F> Inputs<'_, F> {
    fn check(&self) -> Result<(), Error> {
        let ((b, _, d), n, r) = (self.s.dim(), self.m.dim().1, self.wq.dim().1);
        error::shape(OP, "m", &[b, n, d], self.m.shape())?;
        error::shape(OP, "wq", &[d, r], self.wq.shape())?;
        error::shape(OP, "wk", &[d, r], self.wk.shape())?;
        error::parameter(OP, "wq", r > 0, r, "at least one column")
    }
}

/// A sequence's projected summaries and memories, and the attention weights.
struct One {
    queries: Array2<f32>,
    keys: Array2<f32>,
    weights: Array2<f32>,
}

impl One {
    fn of(x: &Inputs<'_>, b: usize) -> Self {
        let queries: Array2<f32> = x.s.index_axis(ndarray::Axis(0), b).dot(&x.wq);
        let keys: Array2<f32> = x.m.index_axis(ndarray::Axis(0), b).dot(&x.wk);
        let mut weights: Array2<f32> = queries.dot(&keys.t());
        let by = (x.wq.dim().1 as f32).powf(-0.5);
        for mut row in weights.rows_mut() {
            let top = row.fold(f32::NEG_INFINITY, |top, x| top.max(by * x));
            row.mapv_inplace(|x| (by * x - top).exp());
            let sum = row.sum();
            row /= sum;
        }
        Self { queries, keys, weights }
    }
}

/// Zeros of shape `[B, Q, D]`.
fn like(x: &Inputs<'_>) -> Array3<f32> {
    Array3::zeros(x.s.dim())
}
