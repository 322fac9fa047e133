//! Feed-forward layers.

use burn::module::Module;
use burn::tensor::{Tensor, activation};
use longreach_burn as ops;
pub use longreach_burn::Activation;

use crate::linear::Bias;
use crate::{Builder, Error, Layout, Linear};

/// The sizes and names of a [`GatedFeedForward`].
#[derive(Clone, Debug, PartialEq)]
pub struct GatedFeedForwardConfig {
    /// Width of the hidden layer.
    pub inner: usize,
    /// `φ`: the activation of the gate.
    pub activation: Activation,
    /// A factor of the gate before its activation.
    pub gate_scale: f32,
    /// The limits of gpt-oss, in place of the activation.
    pub clamp: Option<Clamp>,
    /// Whether the linear maps have biases.
    pub bias: Bias,
    /// The names of the gate projection, the up projection and the down projection in a checkpoint.
    pub names: [String; 3],
}

impl GatedFeedForwardConfig {
    /// SwiGLU without biases, with the names of Llama.
    pub fn silu(inner: usize) -> Self {
        let names = ["gate_proj", "up_proj", "down_proj"].map(str::to_owned);
        Self { inner, activation: Activation::Silu, gate_scale: 1.0, clamp: None, bias: Bias::No, names }
    }
}

/// The gate of gpt-oss: `(clamp(u, ±limit) + 1) ⊙ g σ(α g)` with `g = min(gate, limit)`. OpenAI 2025.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clamp {
    /// `α`
    pub alpha: f32,
    /// The largest gate, and the bound of the up projection.
    pub limit: f32,
}

/// `W_down (φ(W_gate x) ⊙ W_up x)`. Shazeer, 2020.
#[derive(Module, Debug)]
pub struct GatedFeedForward {
    gate: Linear,
    up: Linear,
    down: Linear,
    gate_scale: f64,
    #[module(skip)]
    clamp: Option<Clamp>,
    #[module(skip)]
    activation: Activation,
}

impl GatedFeedForward {
    /// Builds the layer of width `d` under the builder's scope. Errors if a weight is missing or has another shape.
    pub fn new(b: &mut Builder, d: usize, c: &GatedFeedForwardConfig) -> Result<Self, Error> {
        let [gate, up, down] = &c.names;
        Ok(Self {
            gate: Linear::new(b, gate, d, c.inner, c.bias)?,
            up: Linear::new(b, up, d, c.inner, c.bias)?,
            down: Linear::new(b, down, c.inner, d, c.bias)?,
            gate_scale: f64::from(c.gate_scale),
            clamp: c.clamp,
            activation: c.activation,
        })
    }

    /// `[.., d]` → `[.., d]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (gate, up) = (self.gate.forward(x.clone()), self.up.forward(x));
        let gate = if self.gate_scale == 1.0 { gate } else { gate.mul_scalar(self.gate_scale) };
        if let Some(Clamp { alpha, limit }) = self.clamp {
            let gate = gate.clamp_max(limit);
            let open = activation::sigmoid(gate.clone().mul_scalar(alpha));
            return self.down.forward(up.clamp(-limit, limit).add_scalar(1.0) * gate * open);
        }
        self.down.forward(match self.activation {
            Activation::Silu => ops::silu_times(gate, up),
            other => ops::activate(gate, other) * up,
        })
    }
}

/// The sizes and names of a [`FeedForward`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedForwardConfig {
    /// Width of the hidden layer.
    pub inner: usize,
    /// `φ`: the activation of the hidden layer.
    pub activation: Activation,
    /// Whether the first map has twice the width and one half gates the other: `φ(a) ⊙ b`. Shazeer 2020.
    pub gated: bool,
    /// Whether the linear maps have biases.
    pub bias: Bias,
    /// The names of the first and the second linear map in a checkpoint.
    pub names: [&'static str; 2],
    /// The layout of their weights in the file.
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
    /// Builds the layer of width `d` under the builder's scope. Errors if a weight is missing or has another shape.
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
