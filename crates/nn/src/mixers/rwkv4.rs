//! The time mixing of RWKV-4. Peng et al. 2023 (RWKV), §3; names as in Hugging Face.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};
use longreach_burn as ops;

use super::parts::{self};
use super::{Mix, Shared};
use crate::linear::Bias;
use crate::{Builder, Error, Init, Linear, State};

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
}

impl Mix for Rwkv4 {
    fn start(&self, batch: usize, device: &Device) -> State {
        // The numerator and the denominator, and the largest exponent so far.
        let sums = Tensor::zeros([batch, 2, self.inner, 1], device);
        let largest = Tensor::full([batch, 1, self.inner, 1], NOTHING, device);
        let sums: Tensor<4> = Tensor::cat(vec![sums, largest], 1);
        State::new(batch).with_rows("shift", [1, self.hidden], device).with("state", sums)
    }

    fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let b = state.batch();
        let delta = state.update("shift", |before| parts::difference(&x, before, &shared.packed));
        // The weight is the share of the current token; the rest is the share of the previous one.
        let mixed = |mix: &Param<Tensor<1>>| x.clone() + delta.clone() * parts::row::<3>(mix).neg().add_scalar(1.0);
        let (o, memory) = ops::Rwkv4 {
            k: self.key.forward(mixed(&self.mix_key)),
            v: self.value.forward(mixed(&self.mix_value)),
            w: ops::neg_exp(self.decay.val()),
            u: self.first.val(),
            state: state.take::<Tensor<4>>("state").reshape([b, 3, self.inner]),
        }
        .packed(&shared.packed);
        let r = activation::sigmoid(self.receptance.forward(mixed(&self.mix_receptance)));
        let memory = memory.reshape([b, 3, self.inner, 1]);
        state.put("state", memory);
        self.output.forward(r * o)
    }
}
