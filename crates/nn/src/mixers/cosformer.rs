//! The cosFormer mixer. Qin et al. 2022; projections and names as in the authors' module.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use longreach_burn as ops;
use ndarray::Array2;

use super::Shared;
use super::parts::{self, Heads, Qkv, Remembered};
use crate::linear::Bias;
use crate::{Builder, Error, Recurrent};

/// The sizes of the mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct CosFormerConfig {
    /// The common sizes.
    pub heads: Heads,
    /// The maximum number of tokens of a text; the cosine weights decay to 0 over this distance.
    pub length: usize,
}

/// The mixer.
#[derive(Module, Debug)]
pub struct CosFormer {
    projections: Qkv,
    #[module(skip)]
    config: CosFormerConfig,
}

impl CosFormer {
    /// Builds the mixer under the builder's scope. Errors if `length` is 0.
    pub fn new(b: &mut Builder, c: &CosFormerConfig) -> Result<Self, Error> {
        if c.length == 0 {
            return Err(b.error("cosFormer: a length of 0 tokens"));
        }
        let projections = Qkv::new(b, &c.heads, Bias::Yes, ["q_proj", "k_proj", "v_proj", "out_proj"])?;
        Ok(Self { projections, config: c.clone() })
    }

    pub(super) fn start(&self, batch: usize, device: &Device) -> Recurrent {
        let h = &self.config.heads;
        Recurrent::zeros(batch, &[], [h.heads, 2 * h.key, h.value + 1], device)
    }

    pub(super) fn forward(&self, x: Tensor<3>, state: Recurrent, _: &mut Shared) -> (Tensor<3>, Recurrent) {
        let (c, t) = (&self.config, x.dims()[1]);
        let [q, k, v] = self.projections.forward(&x, c.heads.heads);
        // Beyond `length` the angle stays that of the last position, so that weights never become negative.
        let place = |seen: usize, i: usize| (seen + i + 1).min(c.length) as f32;
        let (o, memory) = ops::cosformer(ops::CosFormer {
            q,
            k,
            v,
            state: state.memory,
            positions: Array2::from_shape_fn((state.seen.len(), t), |(b, i)| place(state.seen[b], i)),
            length: c.length as f64,
            causal: true,
        });
        let o = self.projections.out.forward(parts::flat(o));
        (o, parts::after(Remembered::of(state.inputs), memory, state.seen, t))
    }
}
