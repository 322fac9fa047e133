//! The Gated DeltaNet mixer. Yang et al. 2025 (Gated delta networks), §3; as in flash-linear-attention.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};
use longreach_burn as ops;

use super::delta_rule::LENGTH_EPS;
use super::parts::{self, Gate, HeadNorm, Heads, Projections};
use super::{Mix, Shared};
use crate::linear::Bias;
use crate::{Builder, Error, Init, Linear, State};

/// The sizes and options of the mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct GatedDeltaConfig {
    /// The common sizes: `heads` of values, `groups` of queries and keys.
    pub heads: Heads,
    /// Whether `beta` ranges up to 2, which allows eigenvalues of the state's transition down to −1.
    pub up_to_two: bool,
    /// Whether the output is gated.
    pub gated: bool,
    /// Whether value head `i` reads the keys of head `i mod groups`, as in GGUF files, and not `⌊i groups / heads⌋`.
    pub cyclic: bool,
}

/// The mixer.
#[derive(Module, Debug)]
pub struct GatedDelta {
    projections: Projections,
    a: Linear,
    beta: Linear,
    a_log: Param<Tensor<1>>,
    dt_bias: Param<Tensor<1>>,
    z: Option<Linear>,
    norm: HeadNorm,
    out: Linear,
    #[module(skip)]
    config: GatedDeltaConfig,
}

impl GatedDelta {
    /// Builds the mixer under the builder's scope. Errors if the sizes are inconsistent, or a weight is missing or
    /// has another shape.
    pub fn new(b: &mut Builder, c: &GatedDeltaConfig) -> Result<Self, Error> {
        let h = &c.heads;
        h.check(b)?;
        let (key, value) = (h.groups * h.key, h.heads * h.value);
        Ok(Self {
            projections: Projections::new(b, h, [key, key, value], parts::SILU)?,
            a: Linear::new(b, "a_proj", h.hidden, h.heads, Bias::No)?,
            beta: Linear::new(b, "b_proj", h.hidden, h.heads, Bias::No)?,
            a_log: b.vector("A_log", h.heads, Init::LogUniform(1e-3, 16.0))?,
            dt_bias: b.vector("dt_bias", h.heads, Init::InverseSoftplusStep(0.001, 0.1))?,
            z: if c.gated { Some(Linear::new(b, "g_proj", h.hidden, value, Bias::No)?) } else { None },
            norm: HeadNorm::new(b, "o_norm", h.value, h.norm_eps, true)?,
            out: Linear::new(b, "o_proj", value, h.hidden, Bias::No)?,
            config: c.clone(),
        })
    }
}

impl Mix for GatedDelta {
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
        let step = activation::softplus(self.a.forward(x.clone()) + parts::row(&self.dt_bias), 1.0);
        let decay: Tensor<3> = ops::neg_exp(self.a_log.val()).unsqueeze();
        let beta = activation::sigmoid(self.beta.forward(x.clone()));
        // Heads that share keys are adjacent in the kernel.
        let [together, apart] = if c.cyclic { [h.shared_by(), h.groups] } else { [1, h.heads] };
        let of_heads = |x: Tensor<3>| parts::exchanged(x.unsqueeze_dim(3), [together, apart]).squeeze_dim(3);
        let (o, memory) = ops::GatedDelta {
            q: unit(q),
            k: unit(k),
            v: parts::exchanged(parts::heads(v, h.heads), [together, apart]),
            g: of_heads(step * decay),
            beta: of_heads(if c.up_to_two { beta * 2.0 } else { beta }),
            state: state.take("state"),
            scale: (h.key as f32).powf(-0.5),
        }
        .packed(&shared.packed);
        let o = parts::exchanged(o, [apart, together]);
        let o = match &self.z {
            Some(z) => self.norm.gated(o, z.forward(x), Gate::Silu),
            None => self.norm.forward(o),
        };
        state.put("state", memory);
        self.out.forward(o)
    }
}
