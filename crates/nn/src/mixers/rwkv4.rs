//! The time mixing of RWKV-4. Peng et al. 2023 (RWKV), §3; names as in Hugging Face.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};
use longreach_burn as ops;

use super::Shared;
use super::parts::{self, Remembered};
use crate::linear::Bias;
use crate::{Builder, Error, Init, Linear, Recurrent};

/// The sizes of the mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct Rwkv4Config {
    /// `d`: width of the model.
    pub hidden: usize,
    /// `A`: channels of the mechanism.
    pub inner: usize,
}

/// The mixer.
#[derive(Module, Debug)]
pub struct Rwkv4 {
    mix_key: Param<Tensor<1>>,
    mix_value: Param<Tensor<1>>,
    mix_receptance: Param<Tensor<1>>,
    decay: Param<Tensor<1>>,
    first: Param<Tensor<1>>,
    key: Linear,
    value: Linear,
    receptance: Linear,
    output: Linear,
    hidden: usize,
    inner: usize,
}

/// The initial log-maximum of the weights, below that of any token.
const NOTHING: f32 = -1e38;

impl Rwkv4 {
    /// Builds the mixer under the builder's scope. Errors if a weight is missing or has another shape.
    pub fn new(b: &mut Builder, c: &Rwkv4Config) -> Result<Self, Error> {
        let (d, a) = (c.hidden, c.inner);
        Ok(Self {
            mix_key: parts::wide(b, "time_mix_key", d, Init::Ramp(0.0, 1.0))?,
            mix_value: parts::wide(b, "time_mix_value", d, Init::Ramp(0.0, 1.0))?,
            mix_receptance: parts::wide(b, "time_mix_receptance", d, Init::Ramp(0.0, 0.5))?,
            decay: b.vector("time_decay", a, Init::Ramp(-5.0, 3.0))?,
            first: b.vector("time_first", a, Init::Constant(0.3f32.ln()))?,
            key: Linear::new(b, "key", d, a, Bias::No)?,
            value: Linear::new(b, "value", d, a, Bias::No)?,
            receptance: Linear::new(b, "receptance", d, a, Bias::No)?,
            output: Linear::new(b, "output", a, d, Bias::No)?,
            hidden: d,
            inner: a,
        })
    }

    pub(super) fn start(&self, batch: usize, device: &Device) -> Recurrent {
        let mut state = Recurrent::zeros(batch, &[[1, self.hidden]], [3, self.inner, 1], device);
        let largest = Tensor::full([batch, 1, self.inner, 1], NOTHING, device);
        state.memory = Tensor::cat(vec![state.memory.narrow(1, 0, 2), largest], 1);
        state
    }

    pub(super) fn forward(&self, x: Tensor<3>, state: Recurrent, _: &mut Shared) -> (Tensor<3>, Recurrent) {
        let [b, t, _] = x.dims();
        let mut remembered = Remembered::of(state.inputs);
        let delta = remembered.next(|before| parts::difference(&x, before));
        // The weight is the share of the current token; the rest is the share of the previous one.
        let mixed = |mix: &Param<Tensor<1>>| x.clone() + delta.clone() * parts::row::<3>(mix).neg().add_scalar(1.0);
        let (o, memory) = ops::rwkv4(ops::Rwkv4 {
            k: self.key.forward(mixed(&self.mix_key)),
            v: self.value.forward(mixed(&self.mix_value)),
            w: ops::neg_exp(self.decay.val()),
            u: self.first.val(),
            state: state.memory.reshape([b, 3, self.inner]),
        });
        let r = activation::sigmoid(self.receptance.forward(mixed(&self.mix_receptance)));
        let memory = memory.reshape([b, 3, self.inner, 1]);
        (self.output.forward(r * o), parts::after(remembered, memory, state.seen, t))
    }
}
