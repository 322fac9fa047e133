//! The time mixing of RWKV-7. Peng et al. 2025 (Goose), §4; names as in flash-linear-attention.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};
use longreach_burn as ops;

use super::delta_rule::LENGTH_EPS;
use super::parts::{self, GroupNorm, LowRank, Pointwise};
use super::{Mix, Shared};
use crate::linear::Bias;
use crate::{Builder, Error, Init, Layout, Linear, Precision, State};

/// The sizes of the mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct Rwkv7Config {
    /// `d`: width of the model.
    pub hidden: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Ranks of the low-rank maps of decay, gate, in-context learning rate, and value residual.
    pub ranks: [usize; 4],
    /// Whether this is the first layer, whose values later layers interpolate with their own.
    pub first: bool,
    /// ε of the group norm.
    pub norm_eps: f64,
    /// Whether the Euclidean norm is bounded from below directly, and not under the square root.
    pub plain_lengths: bool,
}

/// The mixer.
#[derive(Module, Debug)]
pub struct Rwkv7 {
    mix: Vec<Param<Tensor<1>>>,
    k_k: Param<Tensor<1>>,
    k_a: Param<Tensor<1>>,
    r_k: Param<Tensor<2>>,
    r: Linear,
    k: Linear,
    v: Linear,
    w: LowRank,
    a: LowRank,
    value: Option<LowRank>,
    gate: LowRank,
    norm: GroupNorm,
    out: Linear,
    heads: usize,
    width: usize,
    plain_lengths: bool,
}

/// The token-shift weights, in the order of the parameters.
const MIXES: [&str; 6] = ["x_r", "x_w", "x_k", "x_v", "x_a", "x_g"];
/// The logarithm of the strongest decay: `−e^{-1/2}`.
const STRONGEST: f64 = -0.606_530_659_712_633_4;

impl Rwkv7 {
    /// Builds the mixer under the builder's scope. Errors if the sizes are inconsistent, or a weight is missing or
    /// has another shape.
    pub fn new(b: &mut Builder, c: &Rwkv7Config) -> Result<Self, Error> {
        let d = c.hidden;
        if c.head_dim == 0 || !d.is_multiple_of(c.head_dim) {
            return Err(b.error(format!("{d} channels cannot be divided into heads of {}", c.head_dim)));
        }
        let heads = d / c.head_dim;
        let [of_w, of_g, of_a, of_v] = c.ranks;
        let low = |b: &mut Builder, name: &str, rank, bias, between| {
            b.scope(format!("{name}.lora"), |b| LowRank::new(b, ["0", "2"], [d, rank, d], bias, between))
        };
        let none = Pointwise::Identity;
        Ok(Self {
            mix: MIXES.iter().map(|name| parts::wide(b, name, d, Init::Ramp(1.0, 0.0))).collect::<Result<_, _>>()?,
            k_k: b.vector("k_k", d, Init::Ramp(0.76, 0.66))?,
            k_a: b.vector("k_a", d, Init::Constant(1.02))?,
            r_k: b.param("r_k", [heads, c.head_dim], Layout::Same, Precision::Full, Init::Constant(-0.04))?,
            r: Linear::new(b, "r_proj", d, d, Bias::No)?,
            k: Linear::new(b, "k_proj", d, d, Bias::No)?,
            v: Linear::new(b, "v_proj", d, d, Bias::No)?,
            w: low(b, "w_lora", of_w, Some(Init::Ramp(-5.5, 0.5)), Pointwise::Tanh)?,
            a: low(b, "a_lora", of_a, Some(Init::Ramp(-0.39, 0.01)), none)?,
            value: if c.first { None } else { Some(low(b, "v_lora", of_v, Some(Init::Ramp(0.93, 0.53)), none)?) },
            gate: low(b, "g_lora", of_g, None, Pointwise::Sigmoid)?,
            norm: GroupNorm::new(b, "g_norm", d, c.norm_eps)?,
            out: Linear::new(b, "o_proj", d, d, Bias::No)?,
            heads,
            width: c.head_dim,
            plain_lengths: c.plain_lengths,
        })
    }
}

impl Mix for Rwkv7 {
    fn start(&self, batch: usize, device: &Device) -> State {
        State::new(batch).with_rows("shift", [1, self.heads * self.width], device).with_matrix(
            "state",
            [self.heads, self.width, self.width],
            device,
        )
    }

    fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let delta = state.update("shift", |before| parts::difference(&x, before, &shared.packed));
        let mixed = |i: usize| x.clone() + delta.clone() * parts::row::<3>(&self.mix[i]);
        let heads = |x: Tensor<3>| parts::heads(x, self.heads);
        let r = heads(self.r.forward(mixed(0)));
        let g = heads(activation::sigmoid(self.w.forward(mixed(1))) * STRONGEST);
        let k = self.k.forward(mixed(2));
        let of_value = mixed(3);
        let v = self.v.forward(of_value.clone());
        let v = match (&self.value, &shared.first_values) {
            (Some(value), Some(first)) => {
                let share = activation::sigmoid(value.forward(of_value));
                v.clone() + (first.clone() - v) * share
            }
            _ => {
                shared.first_values = Some(v.clone());
                v
            }
        };
        let a = activation::sigmoid(self.a.forward(mixed(4)));
        let kappa = heads(k.clone() * parts::row::<3>(&self.k_k));
        let kappa = if self.plain_lengths {
            let length = (kappa.clone() * kappa.clone()).sum_dim(3).sqrt().clamp_min(1e-12);
            kappa / length
        } else {
            parts::unit(kappa, LENGTH_EPS)
        };
        let k = heads(k.clone() + k * a.clone().sub_scalar(1.0) * parts::row::<3>(&self.k_a));
        let v = heads(v);
        let bonus: Tensor<4> = self.r_k.val().unsqueeze();
        let bonus = (r.clone() * k.clone() * bonus).sum_dim(3);
        let (o, memory) =
            ops::Rwkv7 { q: r, k, v: v.clone(), g, kappa, a: heads(a), state: state.take("state"), scale: 1.0 }
                .packed(&shared.packed);
        let o = self.norm.forward(o) + parts::flat(bonus * v);
        let o = o * self.gate.forward(mixed(5));
        state.put("state", memory);
        self.out.forward(o)
    }
}
