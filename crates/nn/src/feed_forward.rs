//! Feed-forward layers.

use burn::module::Module;
use burn::tensor::Tensor;
use longreach_burn as ops;
pub use longreach_burn::Activation;

use crate::linear::Bias;
use crate::{Builder, Error, Layout, Linear};

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

/// The sizes and names of a [`FeedForward`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedForwardConfig {
    /// Width between the maps.
    pub inner: usize,
    /// What stands there.
    pub activation: Activation,
    /// Whether it is the gate of the other half of a doubled first map: `φ(a) ⊙ b`. Shazeer 2020.
    pub gated: bool,
    /// Whether the maps have biases.
    pub bias: Bias,
    /// What a checkpoint calls the first map and the second.
    pub names: [&'static str; 2],
    /// How their weights lie in the file.
    pub layout: Layout,
}

/// `W_2 φ(W_1 x)`.
#[derive(Module, Debug)]
pub struct FeedForward {
    first: Linear,
    second: Linear,
    gated: bool,
    #[module(skip)]
    activation: Activation,
}

impl FeedForward {
    /// The layer from `d` and back, under the builder's scope.
    pub fn new(b: &mut Builder, d: usize, c: &FeedForwardConfig) -> Result<Self, Error> {
        let doubled = if c.gated { 2 * c.inner } else { c.inner };
        Ok(Self {
            first: Linear::with_layout(b, c.names[0], [doubled, d], c.bias, c.layout)?,
            second: Linear::with_layout(b, c.names[1], [d, c.inner], c.bias, c.layout)?,
            gated: c.gated,
            activation: c.activation,
        })
    }

    /// `[B, T, d]` → `[B, T, d]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = self.first.forward(x);
        let x = if self.gated { ops::gated(x, self.activation) } else { ops::activate(x, self.activation) };
        self.second.forward(x)
    }
}
