//! A low-rank update of a matrix: `y = W x + s B A x`, of which only `A` and `B` are trained.
//!
//! Hu et al. 2022 (LoRA), equation 3.

use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use longreach_burn as ops;

/// The update `s B A` of a matrix `[out, in]`.
#[derive(Module, Debug)]
pub struct LowRank {
    /// `[rank, in]`
    a: Param<Tensor<2>>,
    /// `[out, rank]`
    b: Param<Tensor<2>>,
    scale: f64,
}

impl LowRank {
    /// The update with the factors `a: [rank, in]` and `b: [out, rank]`.
    pub(crate) fn new(a: Param<Tensor<2>>, b: Param<Tensor<2>>, scale: f32) -> Self {
        Self { a, b, scale: f64::from(scale) }
    }

    /// `s B A x`: `[.., in]` → `[.., out]`, for the outputs `outputs` only if they are given.
    pub(crate) fn forward<const D: usize>(&self, x: Tensor<D>, outputs: Option<Range<usize>>) -> Tensor<D> {
        let b = self.b.val();
        let b = match outputs {
            Some(outputs) => b.narrow(0, outputs.start, outputs.len()),
            None => b,
        };
        ops::linear(ops::linear(x, self.a.val(), None).mul_scalar(self.scale), b, None)
    }

    /// `s B A`, `[out, in]`.
    pub(crate) fn matrix(&self) -> Tensor<2> {
        self.b.val().matmul(self.a.val()).mul_scalar(self.scale)
    }

    /// The same update, of which no gradient is taken.
    pub(crate) fn detached(&self) -> Self {
        let still = |x: &Param<Tensor<2>>| Param::from_tensor(x.val().detach());
        Self { a: still(&self.a), b: still(&self.b), scale: self.scale }
    }
}
