//! Feed-forward layers.

use burn::module::Module;
use burn::tensor::{Tensor, activation};
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

/// What stands between the two maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `gelu(x)`, exactly: with the error function. Hendrycks and Gimpel 2016.
    Gelu,
    /// `gelu(a) ⊙ b` of the two halves of a doubled first map. Shazeer 2020.
    GeGlu,
    /// `max(x, 0)`
    Relu,
}

/// The sizes and names of a [`FeedForward`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedForwardConfig {
    /// Width between the maps.
    pub inner: usize,
    /// What stands there.
    pub activation: Activation,
    /// Whether the maps have biases.
    pub bias: Bias,
    /// What a checkpoint calls the first map and the second.
    pub names: [&'static str; 2],
}

/// `W_2 φ(W_1 x)`.
#[derive(Module, Debug)]
pub struct FeedForward {
    first: Linear,
    second: Linear,
    inner: usize,
    #[module(skip)]
    activation: Activation,
}

impl FeedForward {
    /// The layer from `d` and back, under the builder's scope.
    pub fn new(b: &mut Builder, d: usize, c: &FeedForwardConfig) -> Result<Self, Error> {
        let gated = c.activation == Activation::GeGlu;
        let doubled = if gated { 2 * c.inner } else { c.inner };
        Ok(Self {
            first: Linear::new(b, c.names[0], d, doubled, c.bias)?,
            second: Linear::new(b, c.names[1], c.inner, d, c.bias)?,
            inner: c.inner,
            activation: c.activation,
        })
    }

    /// `[B, T, d]` → `[B, T, d]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = self.first.forward(x);
        let x = match self.activation {
            Activation::Gelu => activation::gelu(x),
            Activation::GeGlu => {
                activation::gelu(x.clone().narrow(2, 0, self.inner)) * x.narrow(2, self.inner, self.inner)
            }
            Activation::Relu => activation::relu(x),
        };
        self.second.forward(x)
    }
}
