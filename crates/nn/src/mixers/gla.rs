//! The gated linear attention mixer. Yang et al. 2024 (GLA), §4.4; as in flash-linear-attention.

use burn::module::Module;
use burn::tensor::{Device, Tensor, activation};
use longreach_burn as ops;

use super::parts::{self, Gate, HeadNorm, Heads, LowRank, Pointwise, Projections};
use super::{Mix, Shared};
use crate::linear::Bias;
use crate::{Builder, Error, Init, Linear, State};

/// The sizes and options of the mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct GlaConfig {
    /// The common sizes.
    pub heads: Heads,
    /// Rank of the gate's low-rank projection.
    pub gate_rank: usize,
    /// The divisor of the logarithm of the gate.
    pub normalizer: f64,
    /// The lower limit of the logarithm of the gate; `None` for no limit.
    pub clamp: Option<f64>,
    /// The feature map of queries and keys.
    pub features: Pointwise,
    /// Whether the output is gated.
    pub gated: bool,
    /// The name of the output norm in a checkpoint.
    pub norm: &'static str,
}

/// The mixer.
#[derive(Module, Debug)]
pub struct Gla {
    projections: Projections,
    gate: LowRank,
    z: Option<Linear>,
    norm: HeadNorm,
    out: Linear,
    #[module(skip)]
    config: GlaConfig,
}

impl Gla {
    /// Builds the mixer under the builder's scope. Errors if the sizes are inconsistent, or a weight is missing or
    /// has another shape.
    pub fn new(b: &mut Builder, c: &GlaConfig) -> Result<Self, Error> {
        let h = &c.heads;
        h.check(b)?;
        let [_, of_k, _] = widths(h);
        let gated = (h.hidden, h.heads * h.value);
        Ok(Self {
            projections: Projections::new(b, h, widths(h), parts::SILU)?,
            gate: b.scope("gk_proj", |b| {
                let bias = Some(Init::Constant(0.0));
                LowRank::new(b, ["0", "1"], [h.hidden, c.gate_rank, of_k], bias, Pointwise::Identity)
            })?,
            z: if c.gated { Some(Linear::new(b, "g_proj", gated.0, gated.1, Bias::No)?) } else { None },
            norm: HeadNorm::new(b, c.norm, h.value, h.norm_eps, h.affine)?,
            out: Linear::new(b, "o_proj", gated.1, h.hidden, Bias::No)?,
            config: c.clone(),
        })
    }
}

impl Mix for Gla {
    fn start(&self, batch: usize, device: &Device) -> State {
        let h = &self.config.heads;
        parts::matrices(h, widths(h), h.key, batch, device)
    }

    fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let (c, h) = (&self.config, &self.config.heads);
        let [q, k, v] = self.projections.forward(&x, state, &shared.packed);
        let g = activation::log_sigmoid(self.gate.forward(x.clone())) / c.normalizer;
        let g = match c.clamp {
            Some(least) => g.clamp_min(least),
            None => g,
        };
        let of_group = |x: Tensor<3>| parts::repeated(parts::heads(x, h.groups), h.shared_by());
        let (o, memory) = ops::Gla {
            q: c.features.of(parts::heads(q, h.heads)),
            k: c.features.of(of_group(k)),
            v: of_group(v),
            g: of_group(g),
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

/// The widths of the projections of queries, keys and values.
pub(super) fn widths(h: &Heads) -> [usize; 3] {
    [h.heads * h.key, h.groups * h.key, h.groups * h.value]
}
