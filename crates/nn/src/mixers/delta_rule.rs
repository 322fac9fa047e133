//! The DeltaNet mixer. Yang et al. 2024 (Parallelizing linear transformers with the delta rule), §3.3; as in
//! flash-linear-attention.

use burn::module::Module;
use burn::tensor::{Device, Tensor, activation};
use longreach_burn as ops;

use super::parts::{self, Gate, HeadNorm, Heads, Pointwise, Projections};
use super::{Mix, Shared};
use crate::linear::Bias;
use crate::{Builder, Error, Linear, State};

/// The sizes and options of the mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaRuleConfig {
    /// The common sizes, with as many groups as heads.
    pub heads: Heads,
    /// The feature map of queries and keys.
    pub features: Pointwise,
    /// Whether queries and keys are normalised by their sums instead of their Euclidean norms.
    pub by_sum: bool,
    /// Whether `beta`, the rate of correction, is learned; otherwise it is 1.
    pub learned_beta: bool,
    /// Whether `beta` ranges up to 2, which allows eigenvalues of the state's transition down to −1.
    pub up_to_two: bool,
    /// Whether the output is gated.
    pub gated: bool,
}

/// The mixer.
#[derive(Module, Debug)]
pub struct DeltaRule {
    projections: Projections,
    beta: Option<Linear>,
    z: Option<Linear>,
    norm: HeadNorm,
    out: Linear,
    #[module(skip)]
    config: DeltaRuleConfig,
}

/// ε of the Euclidean norms, under the square root.
pub(super) const LENGTH_EPS: f64 = 1e-6;
/// ε of the sums.
const SUM_EPS: f64 = 0.0;

impl DeltaRule {
    /// Builds the mixer under the builder's scope. Errors if the sizes are inconsistent, or a weight is missing or
    /// has another shape.
    pub fn new(b: &mut Builder, c: &DeltaRuleConfig) -> Result<Self, Error> {
        let h = &c.heads;
        h.check(b)?;
        let (key, value) = (h.heads * h.key, h.heads * h.value);
        let silu = ops::ConvActivation::Silu;
        let of_keys = if c.features == Pointwise::Silu { silu } else { ops::ConvActivation::None };
        Ok(Self {
            projections: Projections::new(b, h, [key, key, value], [of_keys, silu])?,
            beta: if c.learned_beta { Some(Linear::new(b, "b_proj", h.hidden, h.heads, Bias::No)?) } else { None },
            z: if c.gated { Some(Linear::new(b, "g_proj", h.hidden, value, Bias::No)?) } else { None },
            norm: HeadNorm::new(b, "o_norm", h.value, h.norm_eps, true)?,
            out: Linear::new(b, "o_proj", value, h.hidden, Bias::No)?,
            config: c.clone(),
        })
    }
}

impl Mix for DeltaRule {
    fn start(&self, batch: usize, device: &Device) -> State {
        let h = &self.config.heads;
        let (key, value) = (h.heads * h.key, h.heads * h.value);
        parts::matrices(h, [key, key, value], h.key, batch, device)
    }

    fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let (c, h, [b, t, _]) = (&self.config, &self.config.heads, x.dims());
        let [q, k, v] = self.projections.forward(&x, state, &shared.packed);
        // The convolution applies the silu if there is one.
        let key_features =
            if h.conv.is_some() && c.features == Pointwise::Silu { Pointwise::Identity } else { c.features };
        let v = if h.conv.is_some() { v } else { activation::silu(v) };
        let normed = |x: Tensor<3>| {
            let x = key_features.of(parts::heads(x, h.heads));
            if c.by_sum { parts::of_sum(x, SUM_EPS) } else { parts::unit(x, LENGTH_EPS) }
        };
        let beta = match &self.beta {
            Some(beta) => activation::sigmoid(beta.forward(x.clone())),
            None => Tensor::ones([b, t, h.heads], &x.device()),
        };
        let (o, memory) = ops::DeltaRule {
            q: normed(q),
            k: normed(k),
            v: parts::heads(v, h.heads),
            beta: if c.up_to_two { beta * 2.0 } else { beta },
            state: state.take("state"),
            scale: (h.key as f32).powf(-0.5),
        }
        .packed(&shared.packed);
        let o = match &self.z {
            Some(z) => self.norm.gated(o, z.forward(x), Gate::Silu),
            None => self.norm.forward(o),
        };
        state.put("state", memory);
        self.out.forward(o)
    }
}
