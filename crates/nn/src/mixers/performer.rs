//! The Performer mixer. Choromanski et al. 2021, §2; projections and names as in the common PyTorch module.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use longreach_attention::linear::performer::{Kernel, projection};
use longreach_burn as ops;

use super::parts::{self, Heads, Qkv};
use super::{Mix, Shared};
use crate::linear::Bias;
use crate::{Builder, Error, Init, Layout, Precision, State};

/// The sizes of the mixer; keys are as wide as values.
#[derive(Clone, Debug, PartialEq)]
pub struct PerformerConfig {
    /// The common sizes.
    pub heads: Heads,
    /// `M`: the number of random features; `K ln K` is usual.
    pub rows: usize,
    /// The kernel that the features approximate.
    pub kernel: Kernel,
    /// A constant added to each feature.
    pub epsilon: f64,
}

/// The mixer.
#[derive(Module, Debug)]
pub struct Performer {
    projections: Qkv,
    /// `[M, K]`, random and not trained.
    rows: Param<Tensor<2>>,
    #[module(skip)]
    config: PerformerConfig,
}

impl Performer {
    /// Builds the mixer under the builder's scope. Errors if a weight is missing or has another shape.
    pub fn new(b: &mut Builder, c: &PerformerConfig) -> Result<Self, Error> {
        let h = &c.heads;
        let projections = Qkv::new(b, h, Bias::No, ["to_q", "to_k", "to_v", "to_out"])?;
        let shape = [c.rows.max(1), h.key];
        let rows = b.scope("fast_attention", |b| {
            b.param("projection_matrix", shape, Layout::Same, Precision::Full, Init::OrthogonalRows)
        })?;
        Ok(Self { projections, rows: parts::fixed(rows), config: c.clone() })
    }

    /// Redraws the random features from `normal`, which returns standard normal numbers: done periodically in
    /// training (§2.4).
    #[must_use]
    pub fn redrawn(self, normal: impl FnMut() -> f64) -> Self {
        let rows = self.rows.map(|old| {
            let [m, k] = old.dims();
            let new = projection(m, k, normal).into_iter().collect::<Vec<f32>>();
            Tensor::from_data(TensorData::new(new, [m, k]), &old.device())
        });
        Self { rows: parts::fixed(rows), ..self }
    }
}

impl Mix for Performer {
    fn start(&self, batch: usize, device: &Device) -> State {
        let (c, h) = (&self.config, &self.config.heads);
        let features = c.kernel.features(c.rows.max(1));
        State::new(batch).with_matrix("state", [h.heads, features, h.value + 1], device)
    }

    fn forward(&self, x: Tensor<3>, state: &mut State, shared: &mut Shared) -> Tensor<3> {
        let c = &self.config;
        let [q, k, v] = self.projections.forward(&x, c.heads.heads);
        let (o, memory) = ops::Performer {
            q,
            k,
            v,
            w: self.rows.val(),
            state: state.take("state"),
            kernel: c.kernel,
            epsilon: c.epsilon,
            causal: true,
        }
        .packed(&shared.packed);
        let o = self.projections.out.forward(parts::flat(o));
        state.put("state", memory);
        o
    }
}
