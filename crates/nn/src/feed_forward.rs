//! Feed-forward layers.

use burn::module::Module;
use burn::tensor::Tensor;
use longreach_burn as ops;

use crate::linear::Bias;
use crate::{Builder, Error, Linear};

/// `W_down (silu(W_gate x) ⊙ W_up x)`. Shazeer, 2020.
#[derive(Module, Debug)]
pub struct SwiGlu {
    /// `[inner, d]`
    pub gate_proj: Linear,
    /// `[inner, d]`
    pub up_proj: Linear,
    /// `[d, inner]`
    pub down_proj: Linear,
}

impl SwiGlu {
    /// The layer from `d` through `inner` and back.
    pub fn new(b: &mut Builder, d: usize, inner: usize) -> Result<Self, Error> {
        Ok(Self {
            gate_proj: Linear::new(b, "gate_proj", d, inner, Bias::No)?,
            up_proj: Linear::new(b, "up_proj", d, inner, Bias::No)?,
            down_proj: Linear::new(b, "down_proj", inner, d, Bias::No)?,
        })
    }

    /// `[.., d]` → `[.., d]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.down_proj.forward(ops::silu_times(self.gate_proj.forward(x.clone()), self.up_proj.forward(x)))
    }
}
