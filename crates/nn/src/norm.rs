//! RMS norm as a module.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use longreach_burn as ops;

use crate::{Builder, Error, Init};

/// `w ⊙ x / rms(x)`.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[d]`
    pub weight: Param<Tensor<1>>,
    /// ε, added to the mean square.
    pub eps: f64,
}

impl RmsNorm {
    /// The norm `name` of rows of width `d`.
    pub fn new(b: &mut Builder, name: &str, d: usize, eps: f64) -> Result<Self, Error> {
        Ok(Self { weight: b.vector(&format!("{name}.weight"), d, Init::Constant(1.0))?, eps })
    }

    /// The norm of each row.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::rms_norm(x, Some(self.weight.val()), self.eps as f32)
    }

    /// The norm of each row of `x ⊙ silu(z)`, in groups of `group`.
    pub fn gated(&self, x: Tensor<3>, z: Tensor<3>, group: usize) -> Tensor<3> {
        ops::rms_norm_gated(x, z, self.weight.val(), group, self.eps as f32)
    }
}
