//! Multi-scale retention. Sun et al. 2023 (RetNet), §2.2; as in flash-linear-attention.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use longreach_attention::linear::retention::decays;
use longreach_attention::rotary::Rotary;
use longreach_burn as ops;

use super::gla::widths;
use super::parts::{self, Gate, HeadNorm, Heads, Pointwise, Projections};
use super::{Mix, Shared};
use crate::linear::Bias;
use crate::{Builder, Error, Linear, State};

/// The sizes and options of the mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct RetentionConfig {
    /// The common sizes.
    pub heads: Heads,
    /// The feature map of queries and keys, applied before the rotation.
    pub features: Pointwise,
    /// Rotary positions of queries and keys.
    pub rotary: Rotary,
    /// Whether the output is gated.
    pub gated: bool,
    /// The name of the output norm in a checkpoint.
    pub norm: &'static str,
}

/// The mixer.
#[derive(Module, Debug)]
pub struct Retention {
    projections: Projections,
    z: Option<Linear>,
    norm: HeadNorm,
    out: Linear,
    #[module(skip)]
    config: RetentionConfig,
}

impl Retention {
    /// Builds the mixer under the builder's scope. Errors if the sizes are inconsistent, or a weight is missing or
    /// has another shape.
    pub fn new(b: &mut Builder, c: &RetentionConfig) -> Result<Self, Error> {
        let h = &c.heads;
        h.check(b)?;
        if c.rotary.width > h.key || !c.rotary.width.is_multiple_of(2) {
            return Err(b.error(format!("rotary positions of {} channels in heads of {}", c.rotary.width, h.key)));
        }
        let inner = h.heads * h.value;
        Ok(Self {
            projections: Projections::new(b, h, widths(h), parts::SILU)?,
            z: if c.gated { Some(Linear::new(b, "g_proj", h.hidden, inner, Bias::No)?) } else { None },
            norm: HeadNorm::new(b, c.norm, h.value, h.norm_eps, h.affine)?,
            out: Linear::new(b, "o_proj", inner, h.hidden, Bias::No)?,
            config: c.clone(),
        })
    }
}

impl Mix for Retention {
    fn start(&self, batch: usize, device: &Device) -> State {
        let h = &self.config.heads;
        parts::matrices(h, widths(h), h.key, batch, device)
    }

    fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let (c, h) = (&self.config, &self.config.heads);
        let [q, k, v] = self.projections.forward(&x, state, &shared.packed);
        let mut turned = |x: Tensor<3>, n: usize| {
            shared.angles.turn(&c.rotary, c.features.of(parts::heads(x, n)), state.positions(), &shared.packed)
        };
        let (q, k) = (turned(q, h.heads), turned(k, h.groups));
        let decays: Vec<f32> = decays(h.heads).into_iter().map(|g| g as f32).collect();
        let (o, memory) = ops::Retention {
            q,
            k: parts::repeated(k, h.shared_by()),
            v: parts::repeated(parts::heads(v, h.groups), h.shared_by()),
            g: Tensor::from_floats(&decays[..], &x.device()),
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
