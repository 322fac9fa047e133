//! The short convolution.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use longreach_burn::{self as ops, ConvActivation};

use crate::linear::Bias;
use crate::{Builder, Error, Init, Layout, Precision};

/// A causal depthwise convolution; its activation is silu by default.
#[derive(Module, Debug)]
pub struct ShortConv {
    /// `[W, D]`
    pub weight: Param<Tensor<2>>,
    /// `[D]`
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    activation: ConvActivation,
}

impl ShortConv {
    /// The convolution `name` of `channels` channels with `taps` taps. Errors if a weight is missing or has another
    /// shape.
    pub fn new(b: &mut Builder, name: &str, channels: usize, taps: usize, bias: Bias) -> Result<Self, Error> {
        let bound = (taps as f32).powf(-0.5);
        let init = Init::Uniform(-bound, bound);
        b.scope(name, |b| {
            let weight = b.param("weight", [taps, channels], Layout::Taps, Precision::Full, init)?;
            let bias = match bias {
                Bias::Yes => Some(b.vector("bias", channels, init)?),
                Bias::No => None,
            };
            Ok(Self { weight, bias, activation: ConvActivation::Silu })
        })
    }

    /// Replaces the activation.
    #[must_use]
    pub fn with_activation(self, activation: ConvActivation) -> Self {
        Self { activation, ..self }
    }

    /// The output of sequences that are rows or packed in one, and the state of each after its last token.
    pub fn forward(&self, x: Tensor<3>, state: Tensor<3>, packed: &ops::Packed) -> (Tensor<3>, Tensor<3>) {
        let (weight, bias) = (self.weight.val(), self.bias.as_ref().map(|b| b.val()));
        ops::Conv { x, weight, bias, state, activation: self.activation }.packed(packed)
    }
}
