//! The recurrent block of Griffin. De et al. 2024, §2.3; names as in Hugging Face's RecurrentGemma.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use longreach_burn as ops;

use super::parts::{self};
use super::{Mix, Shared};
use crate::linear::Bias;
use crate::rotary::positions;
use crate::{Activation, Builder, Error, Init, Layout, Linear, Precision, ShortConv, State};

/// The sizes of the mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct RgLruConfig {
    /// `d`: width of the model.
    pub hidden: usize,
    /// `w`: channels of the recurrence.
    pub inner: usize,
    /// The number of diagonal blocks of the gates' matrices.
    pub blocks: usize,
    /// The number of taps of the short convolution.
    pub conv: usize,
    /// The activation of the branch that multiplies the recurrence's output.
    pub activation: Activation,
    /// Whether the first token of a sequence enters the state whole, without the root of `1 − a²`.
    pub whole_first: bool,
}

/// The mixer.
#[derive(Module, Debug)]
pub struct RgLru {
    y: Linear,
    x: Linear,
    conv: ShortConv,
    lambda: Param<Tensor<1>>,
    input_weight: Param<Tensor<3>>,
    input_bias: Param<Tensor<2>>,
    recurrent_weight: Param<Tensor<3>>,
    recurrent_bias: Param<Tensor<2>>,
    out: Linear,
    #[module(skip)]
    config: RgLruConfig,
}

impl RgLru {
    /// Builds the mixer under the builder's scope. Errors if `inner` is no multiple of `blocks`.
    pub fn new(b: &mut Builder, c: &RgLruConfig) -> Result<Self, Error> {
        if c.blocks == 0 || !c.inner.is_multiple_of(c.blocks) {
            return Err(b.error(format!("{} channels cannot be divided into {} blocks", c.inner, c.blocks)));
        }
        let width = c.inner / c.blocks;
        let bound = (width as f32).powf(-0.5);
        let (same, full) = (Layout::Same, Precision::Full);
        let weight =
            |b: &mut Builder, name| b.param(name, [c.blocks, width, width], same, full, Init::Uniform(-bound, bound));
        let bias = |b: &mut Builder, name| b.param(name, [c.blocks, width], same, full, Init::Constant(0.0));
        let conv = ShortConv::new(b, "conv_1d", c.inner, c.conv, Bias::Yes)?.with_activation(ops::ConvActivation::None);
        let y = Linear::new(b, "linear_y", c.hidden, c.inner, Bias::Yes)?;
        let x = Linear::new(b, "linear_x", c.hidden, c.inner, Bias::Yes)?;
        let out = Linear::new(b, "linear_out", c.inner, c.hidden, Bias::Yes)?;
        b.scope("rg_lru", |b| {
            Ok(Self {
                y,
                x,
                conv,
                // Initial decays of 0.9 to 0.999 for an open gate.
                lambda: b.vector("recurrent_param", c.inner, Init::Ramp(-8.5, -4.3))?,
                input_weight: weight(b, "input_gate_weight")?,
                input_bias: bias(b, "input_gate_bias")?,
                recurrent_weight: weight(b, "recurrent_gate_weight")?,
                recurrent_bias: bias(b, "recurrent_gate_bias")?,
                out,
                config: c.clone(),
            })
        })
    }
}

impl Mix for RgLru {
    fn start(&self, batch: usize, device: &Device) -> State {
        let c = &self.config;
        State::new(batch).with_rows("conv", [c.conv - 1, c.inner], device).with_matrix("state", [c.inner, 1, 1], device)
    }

    fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let (c, b) = (&self.config, state.batch());
        let y = ops::activate(self.y.forward(x.clone()), c.activation);
        let begins = c.whole_first && state.positions().contains(&0);
        let reset = begins.then(|| {
            let positions = positions(state.positions(), x.dims()[1], &shared.packed);
            positions.mapv(|before| f32::from(u8::from(before == 0)))
        });
        let x = state.update("conv", |before| self.conv.forward(self.x.forward(x), before, &shared.packed));
        let blocks = parts::heads(x.clone(), c.blocks).swap_dims(1, 2);
        let gate = |weight: &Param<Tensor<3>>, bias: &Param<Tensor<2>>| {
            let weight: Tensor<4> = weight.val().unsqueeze();
            let bias: Tensor<4> = bias.val().reshape([1, c.blocks, 1, c.inner / c.blocks]);
            parts::flat((blocks.clone().matmul(weight) + bias).swap_dims(1, 2))
        };
        let (o, memory) = ops::RgLru {
            r: gate(&self.recurrent_weight, &self.recurrent_bias),
            i: gate(&self.input_weight, &self.input_bias),
            x,
            lambda: self.lambda.val(),
            state: state.take::<Tensor<4>>("state").reshape([b, c.inner]),
            reset,
        }
        .packed(&shared.packed);
        let memory = memory.reshape([b, c.inner, 1, 1]);
        state.put("state", memory);
        self.out.forward(o * y)
    }
}
