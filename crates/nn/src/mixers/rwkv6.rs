//! The time mixing of RWKV-6. Peng et al. 2024 (Eagle and Finch), §4.2; names as in flash-linear-attention.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use longreach_burn as ops;

use super::parts::{self, GroupNorm, LowRank, Pointwise};
use super::{Mix, Shared};
use crate::linear::Bias;
use crate::{Builder, Error, Init, Layout, Linear, Precision, State};

/// The sizes of the mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct Rwkv6Config {
    /// `d`: width of the model.
    pub hidden: usize,
    /// `H`: the number of heads.
    pub heads: usize,
    /// `K`: width of a head's keys.
    pub key: usize,
    /// `V`: width of a head's values.
    pub value: usize,
    /// Rank of the data-dependent token shift.
    pub mix_rank: usize,
    /// Rank of the data-dependent decay.
    pub decay_rank: usize,
    /// ε of the group norm.
    pub norm_eps: f64,
    /// The places of receptance, decay, key, value and gate in the parameters of the token shift.
    pub slots: [usize; 5],
}

impl Rwkv6Config {
    /// The slots of flash-linear-attention.
    pub const SLOTS: [usize; 5] = [0, 1, 2, 3, 4];
}

/// The mixer.
#[derive(Module, Debug)]
pub struct Rwkv6 {
    mix: Param<Tensor<1>>,
    mix_in: Linear,
    mix_out: Param<Tensor<2>>,
    mix_bias: Param<Tensor<2>>,
    r: Linear,
    w: LowRank,
    k: Linear,
    v: Linear,
    g: Linear,
    bonus: Param<Tensor<2>>,
    norm: GroupNorm,
    out: Linear,
    #[module(skip)]
    config: Rwkv6Config,
}

/// The number of token-shifted inputs: receptance, decay, key, value, gate.
const SLOTS: usize = 5;

impl Rwkv6 {
    /// Builds the mixer under the builder's scope. Errors if the sizes are inconsistent, or a weight is missing or
    /// has another shape.
    pub fn new(b: &mut Builder, c: &Rwkv6Config) -> Result<Self, Error> {
        let (d, key, value) = (c.hidden, c.heads * c.key, c.heads * c.value);
        if key == 0 || value == 0 {
            return Err(b.error(format!("{} heads of {} and {} channels", c.heads, c.key, c.value)));
        }
        if !(0..SLOTS).all(|slot| c.slots.contains(&slot)) {
            return Err(b.error(format!("slots of the token shift: want each of 0 to 4 once, found {:?}", c.slots)));
        }
        let inner = SLOTS * c.mix_rank;
        let linear = |b: &mut Builder, name: &str, n| b.scope(name, |b| Linear::new(b, "linear", d, n, Bias::No));
        let full = |b: &mut Builder, name: &str, shape, init| b.param(name, shape, Layout::Same, Precision::Full, init);
        let (mix, mix_in) = b.scope("x_proj.0", |b| {
            Ok::<_, Error>((b.vector("mu", d, Init::Ramp(0.0, 1.0))?, Linear::new(b, "linear", d, inner, Bias::No)?))
        })?;
        Ok(Self {
            mix,
            mix_in,
            mix_out: full(b, "x_proj.2.weight", [d, inner], Init::Uniform(-0.01, 0.01))?,
            mix_bias: full(b, "x_bias", [SLOTS, d], Init::Uniform(0.0, 1.0))?,
            r: linear(b, "r_proj", key)?,
            w: b.scope("w_proj.linear.lora", |b| {
                let ranks = [d, c.decay_rank, key];
                LowRank::new(b, ["0", "2"], ranks, Some(Init::Ramp(-6.0, -1.0)), Pointwise::Tanh)
            })?,
            k: linear(b, "k_proj", key)?,
            v: linear(b, "v_proj", value)?,
            g: linear(b, "g_proj", value)?,
            bonus: full(b, "bonus", [c.heads, c.key], Init::Ramp(0.0, 0.5))?,
            norm: GroupNorm::new(b, "g_norm", value, c.norm_eps)?,
            out: Linear::new(b, "o_proj", value, d, Bias::No)?,
            config: c.clone(),
        })
    }
}

impl Mix for Rwkv6 {
    fn start(&self, batch: usize, device: &Device) -> State {
        let c = &self.config;
        State::new(batch).with_rows("shift", [1, c.hidden], device).with_matrix(
            "state",
            [c.heads, c.key, c.value],
            device,
        )
    }

    fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let c = &self.config;
        let delta = state.update("shift", |before| parts::difference(&x, before, &shared.packed));
        let z = self.mix_in.forward(x.clone() + delta.clone() * parts::row::<3>(&self.mix)).tanh();
        let mixed = |input: usize| {
            let slot = c.slots[input];
            let own = z.clone().narrow(2, slot * c.mix_rank, c.mix_rank);
            let weight: Tensor<3> = self.mix_out.val().narrow(1, slot * c.mix_rank, c.mix_rank).transpose().unsqueeze();
            let bias: Tensor<3> = self.mix_bias.val().narrow(0, slot, 1).unsqueeze();
            x.clone() + delta.clone() * (own.matmul(weight) + bias)
        };
        let heads = |x| parts::heads(x, c.heads);
        let (o, memory) = ops::Rwkv6 {
            q: heads(self.r.forward(mixed(0))),
            k: heads(self.k.forward(mixed(2))),
            v: heads(self.v.forward(mixed(3))),
            g: heads(ops::neg_exp(self.w.forward(mixed(1)))),
            u: self.bonus.val(),
            state: state.take("state"),
            scale: 1.0,
        }
        .packed(&shared.packed);
        let o = ops::silu_times(self.g.forward(mixed(4)), self.norm.forward(o));
        state.put("state", memory);
        self.out.forward(o)
    }
}
