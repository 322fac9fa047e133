//! The mixer of Kimi delta attention. Kimi Team 2025 (Kimi Linear), §4; as in flash-linear-attention.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};
use longreach_burn as ops;

use super::delta_rule::LENGTH_EPS;
use super::parts::{self, Gate, HeadNorm, Heads, LowRank, Pointwise, Projections};
use super::{Mix, Shared};
use crate::linear::Bias;
use crate::{Builder, Error, Init, Linear, State};

/// The sizes and options of the mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct KdaConfig {
    /// The common sizes: `heads` of values, `groups` of queries and keys.
    pub heads: Heads,
    /// Whether `beta` ranges up to 2, which allows eigenvalues of the state's transition down to −1.
    pub up_to_two: bool,
    /// The lower bound of the logarithm of the gates; `None` for no bound.
    pub lower_bound: Option<f64>,
    /// How the projections of the gates and of the output's gate are factored.
    pub gates: GateProjection,
}

/// The form of a projection to gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateProjection {
    /// Two matrices, of the rank of a head's width. That of the output's gate may have a bias.
    LowRank {
        /// Whether it has.
        bias: bool,
    },
    /// One matrix.
    Full,
}

#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "next to the weights it is small")]
enum Map {
    LowRank(LowRank),
    Full(Linear),
}

impl Map {
    fn new(
        b: &mut Builder,
        name: &str,
        [inputs, rank, outputs]: [usize; 3],
        form: GateProjection,
    ) -> Result<Self, Error> {
        Ok(match form {
            GateProjection::LowRank { bias } => {
                let bias = bias.then_some(Init::Constant(0.0));
                let low =
                    |b: &mut Builder| LowRank::new(b, ["0", "1"], [inputs, rank, outputs], bias, Pointwise::Identity);
                Map::LowRank(b.scope(name, low)?)
            }
            GateProjection::Full => Map::Full(Linear::new(b, name, inputs, outputs, Bias::No)?),
        })
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Map::LowRank(map) => map.forward(x),
            Map::Full(map) => map.forward(x),
        }
    }
}

/// The mixer.
#[derive(Module, Debug)]
pub struct Kda {
    projections: Projections,
    f: Map,
    beta: Linear,
    a_log: Param<Tensor<1>>,
    dt_bias: Param<Tensor<1>>,
    z: Map,
    norm: HeadNorm,
    out: Linear,
    #[module(skip)]
    config: KdaConfig,
}

impl Kda {
    /// Builds the mixer under the builder's scope. Errors if the sizes are inconsistent, or a weight is missing or
    /// has another shape.
    pub fn new(b: &mut Builder, c: &KdaConfig) -> Result<Self, Error> {
        let h = &c.heads;
        h.check(b)?;
        let (key, value, gates) = (h.groups * h.key, h.heads * h.value, h.heads * h.key);
        // Only the gate of the output has a bias.
        let form = match c.gates {
            GateProjection::LowRank { .. } => GateProjection::LowRank { bias: false },
            GateProjection::Full => GateProjection::Full,
        };
        let of_rates = if c.lower_bound.is_some() { Init::Constant(0.0) } else { Init::LogUniform(1.0, 16.0) };
        Ok(Self {
            projections: Projections::new(b, h, [key, key, value], parts::SILU)?,
            f: Map::new(b, "f_proj", [h.hidden, h.value, gates], form)?,
            beta: Linear::new(b, "b_proj", h.hidden, h.heads, Bias::No)?,
            a_log: b.vector("A_log", h.heads, of_rates)?,
            dt_bias: b.vector("dt_bias", gates, Init::InverseSoftplusStep(0.001, 0.1))?,
            z: Map::new(b, "g_proj", [h.hidden, h.value, value], c.gates)?,
            norm: HeadNorm::new(b, "o_norm", h.value, h.norm_eps, true)?,
            out: Linear::new(b, "o_proj", value, h.hidden, Bias::No)?,
            config: c.clone(),
        })
    }
}

impl Mix for Kda {
    fn start(&self, batch: usize, device: &Device) -> State {
        let h = &self.config.heads;
        let (key, value) = (h.groups * h.key, h.heads * h.value);
        parts::matrices(h, [key, key, value], h.key, batch, device)
    }

    fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let (c, h) = (&self.config, &self.config.heads);
        let [q, k, v] = self.projections.forward(&x, state, &shared.packed);
        // The convolutions apply the silu if there are any.
        let [q, k, v] = if h.conv.is_some() { [q, k, v] } else { [q, k, v].map(activation::silu) };
        let unit = |x: Tensor<3>| parts::unit(parts::heads(x, h.groups), LENGTH_EPS);
        let f = parts::heads(self.f.forward(x.clone()) + parts::row(&self.dt_bias), h.heads);
        let rates: Tensor<4> = ops::neg_exp(self.a_log.val()).reshape([1, 1, h.heads, 1]);
        let g = match c.lower_bound {
            None => activation::softplus(f, 1.0) * rates,
            Some(bound) => activation::sigmoid(f * rates.neg()) * bound,
        };
        let beta = activation::sigmoid(self.beta.forward(x.clone()));
        let (o, memory) = ops::Kda {
            q: unit(q),
            k: unit(k),
            v: parts::heads(v, h.heads),
            g,
            beta: if c.up_to_two { beta * 2.0 } else { beta },
            state: state.take("state"),
            scale: (h.key as f32).powf(-0.5),
        }
        .packed(&shared.packed);
        let o = self.norm.gated(o, self.z.forward(x), Gate::Sigmoid);
        state.put("state", memory);
        self.out.forward(o)
    }
}
