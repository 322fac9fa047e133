//! Embeddings of the tokens for each layer, which a gate in the layer lets in. Gemma 4 (Gemma Team 2026), as in Gemma 3n.
//!
//! $$ e = \frac{1}{\sqrt 2} \left( \sqrt p \, E[\mathrm{id}] + \mathrm{norm}(W x_0 / \sqrt d) \right) \in
//! \mathbb{R}^{L \times p}, \qquad y_l = W_o (f(W_g x) \odot e_l) $$

use burn::module::Module;
use burn::tensor::Tensor;
use longreach_burn as ops;
use longreach_burn::Activation;

use crate::linear::Bias;
use crate::mixers::Shared;
use crate::{Builder, Embedding, Error, Linear, RmsNorm};

/// The sizes of the embeddings for each layer.
#[derive(Clone, Debug, PartialEq)]
pub struct PerLayerConfig {
    /// The number of tokens in the table.
    pub vocabulary: usize,
    /// `p`: width of the embedding of one layer.
    pub width: usize,
    /// ε of the norm.
    pub norm_eps: f64,
}

/// The table and the projection of the embeddings `x₀` that is added to its rows.
#[derive(Module, Debug)]
pub struct PerLayer {
    table: Embedding,
    projection: Linear,
    norm: RmsNorm,
}

impl PerLayer {
    /// Builds it for a model of width `d` with `layers` layers under the builder's scope. Errors if a weight is missing or
    /// has another shape.
    pub(crate) fn new(b: &mut Builder, [d, layers]: [usize; 2], c: &PerLayerConfig) -> Result<Self, Error> {
        let all = layers * c.width;
        Ok(Self {
            table: Embedding::new(b, "embed_tokens_per_layer", c.vocabulary, all)?,
            projection: Linear::new(b, "per_layer_model_projection", d, all, Bias::No)?,
            norm: RmsNorm::new(b, "per_layer_projection_norm", c.width, c.norm_eps)?,
        })
    }

    /// The embeddings `[B, T, L p]` of contiguous rows of ids with the embeddings `x: [B, T, d]`.
    pub(crate) fn forward(&self, ids: &[u32], x: Tensor<3>) -> Tensor<3> {
        let [batch, t, d] = x.dims();
        let width = self.norm.weight.dims()[0];
        let rows = self.table.forward(ids, batch).mul_scalar((width as f64).sqrt());
        let all = rows.dims()[2];
        let projected = self.projection.forward(x).mul_scalar((d as f64).powf(-0.5));
        let projected = self.norm.forward(projected.reshape([batch, t, all / width, width])).reshape([batch, t, all]);
        (rows + projected).mul_scalar(0.5f64.sqrt())
    }
}

/// The sizes of the gate in a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct PerLayerGateConfig {
    /// `p`: width of the embedding of one layer.
    pub width: usize,
    /// The index of the layer.
    pub layer: usize,
    /// `f`
    pub activation: Activation,
}

/// The gate in a layer.
#[derive(Module, Debug)]
pub struct PerLayerGate {
    gate: Linear,
    out: Linear,
    #[module(skip)]
    config: PerLayerGateConfig,
}

impl PerLayerGate {
    /// Builds it in a model of width `d` under the builder's scope. Errors if a weight is missing or has another shape.
    pub(crate) fn new(b: &mut Builder, d: usize, c: &PerLayerGateConfig) -> Result<Self, Error> {
        Ok(Self {
            gate: Linear::new(b, "per_layer_input_gate", d, c.width, Bias::No)?,
            out: Linear::new(b, "per_layer_projection", c.width, d, Bias::No)?,
            config: c.clone(),
        })
    }

    /// The contribution of the embeddings of `shared` to `x: [B, T, d]`. Panics if the model has none.
    pub(crate) fn forward(&self, x: Tensor<3>, shared: &Shared) -> Tensor<3> {
        let c = &self.config;
        let all = shared.per_layer.clone().expect("a model with this gate has embeddings for each layer");
        let own = all.narrow(2, c.layer * c.width, c.width);
        self.out.forward(ops::activate(self.gate.forward(x), c.activation) * own)
    }
}
