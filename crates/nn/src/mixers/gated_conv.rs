//! The gated short convolution of LFM2: a causal depthwise convolution of a few taps between two gates. Liquid AI 2025.
//!
//! $$ [b \mid c \mid u] = W_{in} x, \qquad y = W_{out} (c \odot \mathrm{conv}(b \odot u)) $$
//!
//! State: the last `taps − 1` inputs of the convolution. O(T (d² + taps d)) time.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use longreach_burn as ops;

use super::{Mix, Shared};
use crate::linear::Bias;
use crate::{Builder, Error, Linear, ShortConv, State};

/// The sizes and options of the mixer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatedConvConfig {
    /// `d`: width of the model and of the convolution.
    pub hidden: usize,
    /// The number of taps of the convolution.
    pub taps: usize,
    /// Whether the projections and the convolution have biases.
    pub bias: bool,
}

/// The mixer.
#[derive(Module, Debug)]
pub struct GatedConv {
    in_proj: Linear,
    conv: ShortConv,
    out_proj: Linear,
    hidden: usize,
    taps: usize,
}

impl GatedConv {
    /// Builds the mixer under the builder's scope. Errors if a weight is missing or has another shape.
    pub fn new(b: &mut Builder, c: &GatedConvConfig) -> Result<Self, Error> {
        let (d, bias) = (c.hidden, Bias::from(c.bias));
        Ok(Self {
            in_proj: Linear::new(b, "in_proj", d, 3 * d, bias)?,
            conv: ShortConv::new(b, "conv", d, c.taps, bias)?.with_activation(ops::ConvActivation::None),
            out_proj: Linear::new(b, "out_proj", d, d, bias)?,
            hidden: d,
            taps: c.taps,
        })
    }
}

impl Mix for GatedConv {
    fn start(&self, batch: usize, device: &Device) -> State {
        State::new(batch).with_rows("conv", [self.taps - 1, self.hidden], device)
    }

    fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let all = self.in_proj.forward(x);
        let part = |i: usize| all.clone().narrow(2, i * self.hidden, self.hidden);
        let y = state.update("conv", |before| self.conv.forward(part(0) * part(2), before, &shared.packed));
        self.out_proj.forward(part(1) * y)
    }
}
