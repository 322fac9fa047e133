//! The mixer of lightning attention. Qin et al. 2024 (Lightning Attention-2), §3; as in MiniMax-01 (2025), §2.2, and as in
//! MiniCPM-SALA (2026).

use burn::module::Module;
use burn::tensor::{Device, Tensor, activation};
use longreach_attention::linear::lightning::decays;
use longreach_attention::rotary::Rotary;
use longreach_attention::softmax::alibi;
use longreach_burn as ops;

use super::parts;
use super::{Mix, Shared};
use crate::linear::Bias;
use crate::rotary::fits;
use crate::{Activation, Builder, Error, Linear, RmsNorm, State};

/// The sizes and options of the mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct LightningConfig {
    /// `d`: width of the model.
    pub hidden: usize,
    /// `H`: the number of heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Where queries, keys and values come from.
    pub inputs: LightningInputs,
    /// The decays of the heads.
    pub decays: Decays,
    /// The factor of the outputs.
    pub scale: f32,
    /// ε of the norm of the outputs of all heads together; `None` for no norm.
    pub norm_eps: Option<f64>,
    /// Whether the outputs are multiplied by the sigmoid of a projection of the input.
    pub gated: bool,
    /// The names of the output's gate, norm and projection in a checkpoint.
    pub names: [&'static str; 3],
}

/// Where the queries, keys and values of lightning attention come from.
#[derive(Clone, Debug, PartialEq)]
pub enum LightningInputs {
    /// From one matrix, which for each head has its query, key and value, with an activation. MiniMax.
    Joined(Activation),
    /// From a matrix each, `q_proj`, `k_proj` and `v_proj`. MiniCPM-SALA.
    Apart {
        /// The number of key and value heads, a divisor of the heads.
        groups: usize,
        /// Whether these projections, the gate and the output have biases.
        bias: bool,
        /// ε of the norms of queries and keys, `q_norm` and `k_norm`, over each head; `None` for no norm.
        norm_eps: Option<f64>,
        /// Rotary positions of queries and keys.
        rotary: Option<Rotary>,
    },
}

/// The decays of the heads of lightning attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decays {
    /// Those of a layer, given its index and the number of layers.
    OfLayer(usize, usize),
    /// The slopes of ALiBi, in every layer.
    Slopes,
}

impl LightningConfig {
    /// As in MiniMax, for `heads` heads of width `head_dim` in the layer `layer.0` of `layer.1`.
    pub fn minimax(hidden: usize, [heads, head_dim]: [usize; 2], layer: (usize, usize), norm_eps: f64) -> Self {
        Self {
            hidden,
            heads,
            head_dim,
            inputs: LightningInputs::Joined(Activation::Silu),
            decays: Decays::OfLayer(layer.0, layer.1),
            scale: 1.0,
            norm_eps: Some(norm_eps),
            gated: true,
            names: ["output_gate", "norm", "out_proj"],
        }
    }

    fn check(&self, b: &Builder) -> Result<(), Error> {
        let Self { heads, head_dim, .. } = *self;
        if heads == 0 || head_dim == 0 {
            return Err(b.error(format!("lightning attention: {heads} heads of {head_dim} channels")));
        }
        let LightningInputs::Apart { groups, rotary, .. } = &self.inputs else { return Ok(()) };
        if *groups == 0 || !heads.is_multiple_of(*groups) {
            return Err(b.error(format!("lightning attention: {heads} heads cannot share {groups} groups")));
        }
        rotary
            .iter()
            .try_for_each(|rotary| fits(rotary, head_dim))
            .map_err(|m| b.error(format!("lightning attention: {m}")))
    }
}

/// The mixer.
#[derive(Module, Debug)]
pub struct Lightning {
    inputs: Inputs,
    gate: Option<Linear>,
    norm: Option<RmsNorm>,
    out: Linear,
    #[module(skip)]
    config: LightningConfig,
}

/// The projections of queries, keys and values.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one per layer, next to megabytes of weights")]
enum Inputs {
    Joined(Linear),
    Apart(Apart),
}

#[derive(Module, Debug)]
struct Apart {
    q: Linear,
    k: Linear,
    v: Linear,
    q_norm: Option<RmsNorm>,
    k_norm: Option<RmsNorm>,
}

impl Lightning {
    /// Builds the mixer under the builder's scope. Errors if the sizes are inconsistent, or a weight is missing or
    /// has another shape.
    pub fn new(b: &mut Builder, c: &LightningConfig) -> Result<Self, Error> {
        c.check(b)?;
        let inner = c.heads * c.head_dim;
        let [gate, norm, out] = c.names;
        let bias = Bias::from(matches!(c.inputs, LightningInputs::Apart { bias: true, .. }));
        let inputs = match c.inputs {
            LightningInputs::Joined(_) => Inputs::Joined(Linear::new(b, "qkv_proj", c.hidden, 3 * inner, bias)?),
            LightningInputs::Apart { groups, norm_eps, .. } => {
                let norm = |b: &mut Builder, name: &str| {
                    norm_eps.map(|eps| RmsNorm::new(b, name, c.head_dim, eps)).transpose()
                };
                Inputs::Apart(Apart {
                    q: Linear::new(b, "q_proj", c.hidden, inner, bias)?,
                    k: Linear::new(b, "k_proj", c.hidden, groups * c.head_dim, bias)?,
                    v: Linear::new(b, "v_proj", c.hidden, groups * c.head_dim, bias)?,
                    q_norm: norm(b, "q_norm")?,
                    k_norm: norm(b, "k_norm")?,
                })
            }
        };
        Ok(Self {
            inputs,
            gate: if c.gated { Some(Linear::new(b, gate, c.hidden, inner, bias)?) } else { None },
            norm: c.norm_eps.map(|eps| RmsNorm::new(b, norm, inner, eps)).transpose()?,
            out: Linear::new(b, out, inner, c.hidden, bias)?,
            config: c.clone(),
        })
    }

    /// Queries, keys and values, `[B, T, H, D]`.
    fn project(&self, x: &Tensor<3>, before: &[usize], shared: &mut Shared) -> [Tensor<4>; 3] {
        let c = &self.config;
        match (&self.inputs, &c.inputs) {
            (Inputs::Joined(qkv), LightningInputs::Joined(activation)) => {
                let qkv = parts::heads(ops::activate(qkv.forward(x.clone()), *activation), c.heads);
                [0, 1, 2].map(|i| qkv.clone().narrow(3, i * c.head_dim, c.head_dim))
            }
            (Inputs::Apart(apart), LightningInputs::Apart { groups, rotary, .. }) => {
                let mut turned = |linear: &Linear, norm: &Option<RmsNorm>, heads: usize| {
                    let x = parts::heads(linear.forward(x.clone()), heads);
                    let x = norm.iter().fold(x, |x, norm| norm.forward(x));
                    rotary.iter().fold(x, |x, rotary| shared.angles.turn(rotary, x, before, &shared.packed))
                };
                let (q, k) = (turned(&apart.q, &apart.q_norm, c.heads), turned(&apart.k, &apart.k_norm, *groups));
                let v = parts::heads(apart.v.forward(x.clone()), *groups);
                [q, parts::repeated(k, c.heads / groups), parts::repeated(v, c.heads / groups)]
            }
            _ => unreachable!("the projections are those of the configuration"),
        }
    }
}

impl Mix for Lightning {
    fn start(&self, batch: usize, device: &Device) -> State {
        let c = &self.config;
        State::new(batch).with_matrix("state", [c.heads, c.head_dim, c.head_dim], device)
    }

    fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let c = &self.config;
        let [q, k, v] = self.project(&x, state.positions(), shared);
        let decays: Vec<f32> = match c.decays {
            Decays::OfLayer(layer, layers) => decays(c.heads, layer, layers).into_iter().map(|g| g as f32).collect(),
            Decays::Slopes => alibi(c.heads).into_iter().map(|slope| -slope).collect(),
        };
        let (o, memory) = ops::Retention {
            q,
            k,
            v,
            g: Tensor::from_floats(&decays[..], &x.device()),
            state: state.take("state"),
            scale: c.scale,
        }
        .packed(&shared.packed);
        state.put("state", memory);
        let o = self.norm.iter().fold(parts::flat(o), |o, norm| norm.forward(o));
        let o = self.gate.iter().fold(o, |o, gate| activation::sigmoid(gate.forward(x.clone())) * o);
        self.out.forward(o)
    }
}
