//! The time mixing of RWKV-5. Peng et al. 2024 (Eagle and Finch), §4.1; names as in the authors' checkpoints.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use longreach_burn as ops;

use super::parts::{self, GroupNorm};
use super::{Mix, Shared};
use crate::linear::Bias;
use crate::{Builder, Error, Init, Layout, Linear, Precision, State};

/// The sizes of the mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct Rwkv5Config {
    /// `d`: width of the model.
    pub hidden: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// ε of the group norm. The authors divide its input by 8, which turns their ε of 1e-5 into the 64e-5 of later
    /// versions.
    pub norm_eps: f64,
}

/// The mixer.
#[derive(Module, Debug)]
pub struct Rwkv5 {
    mix: Vec<Param<Tensor<1>>>,
    decay: Param<Tensor<2>>,
    bonus: Param<Tensor<2>>,
    receptance: Linear,
    key: Linear,
    value: Linear,
    gate: Linear,
    norm: GroupNorm,
    output: Linear,
    heads: usize,
    width: usize,
}

/// The token-shift weights, in the order of the parameters.
const MIXES: [&str; 4] = ["time_mix_r", "time_mix_k", "time_mix_v", "time_mix_g"];

impl Rwkv5 {
    /// Builds the mixer under the builder's scope. Errors if the sizes are inconsistent, or a weight is missing or
    /// has another shape.
    pub fn new(b: &mut Builder, c: &Rwkv5Config) -> Result<Self, Error> {
        let d = c.hidden;
        if c.head_dim == 0 || !d.is_multiple_of(c.head_dim) {
            return Err(b.error(format!("{d} channels cannot be divided into heads of {}", c.head_dim)));
        }
        let heads = d / c.head_dim;
        let of_head =
            |b: &mut Builder, name, init| b.param(name, [heads, c.head_dim], Layout::Same, Precision::Full, init);
        Ok(Self {
            mix: MIXES.iter().map(|name| parts::wide(b, name, d, Init::Ramp(0.0, 1.0))).collect::<Result<_, _>>()?,
            decay: of_head(b, "time_decay", Init::Ramp(-6.0, -1.0))?,
            bonus: of_head(b, "time_faaaa", Init::Ramp(0.0, 0.5))?,
            receptance: Linear::new(b, "receptance", d, d, Bias::No)?,
            key: Linear::new(b, "key", d, d, Bias::No)?,
            value: Linear::new(b, "value", d, d, Bias::No)?,
            gate: Linear::new(b, "gate", d, d, Bias::No)?,
            norm: GroupNorm::new(b, "ln_x", d, c.norm_eps)?,
            output: Linear::new(b, "output", d, d, Bias::No)?,
            heads,
            width: c.head_dim,
        })
    }
}

impl Mix for Rwkv5 {
    fn start(&self, batch: usize, device: &Device) -> State {
        State::new(batch).with_rows("shift", [1, self.heads * self.width], device).with_matrix(
            "state",
            [self.heads, self.width, self.width],
            device,
        )
    }

    fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let delta = state.update("shift", |before| parts::difference(&x, before, &shared.packed));
        // The weight is the share of the current token; the rest is the share of the previous one.
        let mixed = |i: usize| x.clone() + delta.clone() * parts::row::<3>(&self.mix[i]).neg().add_scalar(1.0);
        let heads = |x| parts::heads(x, self.heads);
        let (o, memory) = ops::Rwkv5 {
            q: heads(self.receptance.forward(mixed(0))),
            k: heads(self.key.forward(mixed(1))),
            v: heads(self.value.forward(mixed(2))),
            g: ops::neg_exp(self.decay.val()),
            u: self.bonus.val(),
            state: state.take("state"),
            scale: 1.0,
        }
        .packed(&shared.packed);
        let o = ops::silu_times(self.gate.forward(mixed(3)), self.norm.forward(o));
        state.put("state", memory);
        self.output.forward(o)
    }
}
