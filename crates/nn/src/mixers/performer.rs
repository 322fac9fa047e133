//! The Performer's mixer. Choromanski et al. 2021, §2; projections and names as the usual PyTorch module has them.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use longreach_attention::linear::performer::{Kernel, projection};
use longreach_burn as ops;

use super::Shared;
use super::parts::{self, Heads, Qkv, Remembered};
use crate::linear::Bias;
use crate::{Builder, Error, Init, Layout, Precision, Recurrent};

/// The sizes of the mixer: keys as wide as values.
#[derive(Clone, Debug, PartialEq)]
pub struct PerformerConfig {
    /// The sizes in common.
    pub heads: Heads,
    /// How many random rows, `M`; `K ln K` is usual.
    pub rows: usize,
    /// Which features.
    pub kernel: Kernel,
    /// What is added to each.
    pub epsilon: f64,
}

/// The mixer.
#[derive(Module, Debug)]
pub struct Performer {
    projections: Qkv,
    /// `[M, K]`, drawn and not learned.
    rows: Param<Tensor<2>>,
    #[module(skip)]
    config: PerformerConfig,
}

impl Performer {
    /// The mixer under the builder's scope.
    pub fn new(b: &mut Builder, c: &PerformerConfig) -> Result<Self, Error> {
        let h = &c.heads;
        let projections = Qkv::new(b, h, Bias::No, ["to_q", "to_k", "to_v", "to_out"])?;
        let shape = [c.rows.max(1), h.key];
        let rows = b.scope("fast_attention", |b| {
            b.param("projection_matrix", shape, Layout::Same, Precision::Full, Init::OrthogonalRows)
        })?;
        Ok(Self { projections, rows: parts::fixed(rows), config: c.clone() })
    }

    /// As it is, with rows drawn anew from standard normal numbers: from time to time in training (§2.4).
    #[must_use]
    pub fn redrawn(self, normal: impl FnMut() -> f64) -> Self {
        let rows = self.rows.map(|old| {
            let [m, k] = old.dims();
            let new = projection(m, k, normal).into_iter().collect::<Vec<f32>>();
            Tensor::from_data(TensorData::new(new, [m, k]), &old.device())
        });
        Self { rows: parts::fixed(rows), ..self }
    }

    pub(super) fn start(&self, batch: usize, device: &Device) -> Recurrent {
        let (c, h) = (&self.config, &self.config.heads);
        let features = c.kernel.features(c.rows.max(1));
        Recurrent::zeros(batch, &[], [h.heads, features, h.value + 1], device)
    }

    pub(super) fn forward(&self, x: Tensor<3>, state: Recurrent, _: &mut Shared) -> (Tensor<3>, Recurrent) {
        let (c, t) = (&self.config, x.dims()[1]);
        let [q, k, v] = self.projections.forward(&x, c.heads.heads);
        let (o, memory) = ops::performer(ops::Performer {
            q,
            k,
            v,
            w: self.rows.val(),
            state: state.memory,
            kernel: c.kernel,
            epsilon: c.epsilon,
            causal: true,
        });
        let o = self.projections.out.forward(parts::flat(o));
        (o, parts::after(Remembered::of(state.inputs), memory, state.seen, t))
    }
}
