//! The cosFormer mixer. Qin et al. 2022; projections and names as in the authors' module.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use longreach_burn as ops;

use super::parts::{self, Heads, Qkv};
use super::{Mix, Shared};
use crate::linear::Bias;
use crate::rotary::positions;
use crate::{Builder, Error, State};

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
}

impl Mix for CosFormer {
    fn start(&self, batch: usize, device: &Device) -> State {
        let h = &self.config.heads;
        State::new(batch).with_matrix("state", [h.heads, 2 * h.key, h.value + 1], device)
    }

    fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let c = &self.config;
        let [q, k, v] = self.projections.forward(&x, c.heads.heads);
        // Beyond `length` the angle stays that of the last position, so that weights never become negative.
        let positions = positions(state.positions(), x.dims()[1], &shared.packed);
        let positions = positions.mapv(|before| (before + 1).min(c.length) as f32);
        let (o, memory) =
            ops::CosFormer { q, k, v, state: state.take("state"), positions, length: c.length as f64, causal: true }
                .packed(&shared.packed);
        let o = self.projections.out.forward(parts::flat(o));
        state.put("state", memory);
        o
    }
}
