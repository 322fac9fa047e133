//! The projections of attention, and the norms of queries, keys and values.

use burn::module::Module;
use burn::tensor::Tensor;
use longreach_burn as ops;

use super::Attention;
use super::config::{AttentionConfig, Fused, KvSource, QkNorm};
use crate::{Builder, Error, Linear, Norm};

/// The projections of queries, keys and values.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one per layer, next to megabytes of weights")]
pub(super) enum Projections {
    Joined(Linear),
    Apart(Apart),
    /// Queries and keys, which are the values, too.
    NoValues([Linear; 2]),
    /// Queries alone.
    Queries(Linear),
}

#[derive(Module, Debug)]
pub(super) struct Apart {
    q: Linear,
    k: Linear,
    v: Linear,
}

impl Projections {
    pub(super) fn new(b: &mut Builder, c: &AttentionConfig) -> Result<Self, Error> {
        let [queries, keys] = [c.heads, c.groups].map(|heads| heads * c.head_dim);
        let mut linear =
            |name: &str, outputs: usize| Linear::with_layout(b, name, [outputs, c.hidden], c.bias.into(), c.layout);
        Ok(if c.fused != Fused::No {
            Projections::Joined(linear(c.names.q, queries + 2 * keys)?)
        } else if matches!(c.source, KvSource::Layer(_)) {
            Projections::Queries(linear(c.names.q, queries)?)
        } else if c.values_are_keys {
            Projections::NoValues([linear(c.names.q, queries)?, linear(c.names.k, keys)?])
        } else {
            let (q, k, v) = (linear(c.names.q, queries)?, linear(c.names.k, keys)?, linear(c.names.v, keys)?);
            Projections::Apart(Apart { q, k, v })
        })
    }
}

impl Attention {
    /// `x: [B, T, heads, width]` after the QK norm.
    fn normed(&self, x: Tensor<4>, norm: &Option<Norm>) -> Tensor<4> {
        match (norm, self.rest.config.qk_norm) {
            (Some(norm), Some(QkNorm::Whole(_))) => {
                let [b, t, n, width] = x.dims();
                norm.forward(x.reshape([b, t, n * width])).reshape([b, t, n, width])
            }
            (Some(norm), _) => norm.forward(x),
            (None, _) => x,
        }
    }

    /// Queries `[B, T, H, width]`, after their norm and before the rotation, of attention to another layer's keys.
    pub(super) fn queries(&self, projection: &Linear, x: Tensor<3>) -> Tensor<4> {
        let c = &self.rest.config;
        let [b, t, _] = x.dims();
        self.normed(projection.forward(x).reshape([b, t, c.heads, c.head_dim]), &self.q_norm)
    }

    /// Queries, keys and values, `[B, T, heads, width]`, after their norms and before the rotation. Panics if the keys are
    /// those of another layer.
    pub(crate) fn project(&self, x: Tensor<3>) -> [Tensor<4>; 3] {
        let c = &self.rest.config;
        let [b, t, _] = x.dims();
        let heads = |x: Tensor<3>, n: usize| x.reshape([b, t, n, c.head_dim]);
        let [q, k, v] = match &self.qkv {
            Projections::Joined(all) if c.fused == Fused::Heads => {
                let all = all.forward(x).reshape([b, t, c.heads, 3 * c.head_dim]);
                [0, 1, 2].map(|i| all.clone().narrow(3, i * c.head_dim, c.head_dim))
            }
            Projections::Joined(all) => {
                let bounds = [0, c.heads, c.heads + c.groups, c.heads + 2 * c.groups];
                // Projects separately if possible, so that each tensor can be freed after its rotation.
                let part = |i: usize, x: Tensor<3>| {
                    let (from, to) = (bounds[i], bounds[i + 1]);
                    Some(heads(all.some(x, from * c.head_dim..to * c.head_dim)?, to - from))
                };
                match (part(0, x.clone()), part(1, x.clone()), part(2, x.clone())) {
                    (Some(q), Some(k), Some(v)) => [q, k, v],
                    _ => {
                        let all = heads(all.forward(x), bounds[3]);
                        [0, 1, 2].map(|i| all.clone().narrow(2, bounds[i], bounds[i + 1] - bounds[i]))
                    }
                }
            }
            Projections::Apart(apart) => {
                let [q, k, v] = [&apart.q, &apart.k, &apart.v].map(|linear| linear.forward(x.clone()));
                let [q, k, v] = match self.adapters.as_deref() {
                    Some([of_q, of_k, of_v]) => {
                        [q + of_q.forward(x.clone()), k + of_k.forward(x.clone()), v + of_v.forward(x)]
                    }
                    _ => [q, k, v],
                };
                [heads(q, c.heads), heads(k, c.groups), heads(v, c.groups)]
            }
            Projections::NoValues([q, k]) => {
                let k = heads(k.forward(x.clone()), c.groups);
                [heads(q.forward(x), c.heads), k.clone(), k]
            }
            Projections::Queries(_) => panic!("the keys are those of another layer"),
        };
        let v = match c.value_norm {
            Some(eps) => ops::rms_norm(v, None, eps as f32),
            None => v,
        };
        [self.normed(q, &self.q_norm), self.normed(k, &self.k_norm), v]
    }
}
