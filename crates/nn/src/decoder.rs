//! The decoder of a language model: embedding, blocks of residual branches, final norm, head.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, activation};
use longreach_simd::product::STREAMED_ROWS;

use crate::dropout::{Dropout, Drops};
use crate::hmt::{Hmt, HmtConfig};
use crate::mixers::{AttentionConfig, KvSource, MixerConfig};
use crate::words::{Words, WordsConfig};
use crate::{
    Block, BlockConfig, Builder, Cache, Embedding, Error, Init, LayerState, Layout, NamedNorm, Norm, PerLayer,
    PerLayerConfig, Precision,
};

mod between;

pub use between::{Between, Moment};

/// The sizes and names of a decoder. [`DecoderConfig::new`] sets the values that most models share, so that a model
/// type lists only its own.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Size of the vocabulary.
    pub vocabulary: usize,
    /// `d`: width of the model.
    pub hidden: usize,
    /// The blocks, in order.
    pub blocks: Vec<BlockConfig>,
    /// The factor of the embeddings.
    pub embedding_scale: f32,
    /// A norm of the embeddings, with its name within the body.
    pub first_norm: Option<NamedNorm>,
    /// The norm before the head, with its name within the body; `None` if there is none.
    pub last_norm: Option<NamedNorm>,
    /// The width of learned lower bounds of each layer's gates; `None` if gates have none. Qin et al. 2024 (HGRN2),
    /// §3.
    pub lower_bounds: Option<usize>,
    /// The embedding and the head.
    pub words: WordsConfig,
    /// The factor of the logits.
    pub logits_scale: f32,
    /// `c`: the soft-cap of the scaled logits, `c tanh(x / c)`. Gemma 2.
    pub logits_cap: Option<f32>,
    /// Embeddings of the tokens for each layer.
    pub per_layer: Option<PerLayerConfig>,
    /// A hierarchical memory around the decoder.
    pub hmt: Option<HmtConfig>,
    /// The name and the number of rows of a table of learned positions. The first block must then begin with
    /// attention of full reach.
    pub positions: Option<(String, usize)>,
    /// Names of the parts in a checkpoint.
    pub names: DecoderNames,
}

impl DecoderConfig {
    /// A decoder of these blocks with an embedding table and an untied head; without a final norm, a hierarchical
    /// memory or learned positions.
    pub fn new([vocabulary, hidden]: [usize; 2], blocks: Vec<BlockConfig>, names: DecoderNames) -> Self {
        Self {
            vocabulary,
            hidden,
            blocks,
            embedding_scale: 1.0,
            first_norm: None,
            last_norm: None,
            lower_bounds: None,
            words: WordsConfig::Table { tied: false },
            logits_scale: 1.0,
            logits_cap: None,
            per_layer: None,
            hmt: None,
            positions: None,
            names,
        }
    }

    /// The name, within the body, of a tensor that every checkpoint contains: the embedding table, or that of the
    /// most frequent tokens.
    pub fn embedding(&self) -> String {
        match &self.words {
            WordsConfig::Table { .. } => format!("{}.weight", self.names.embedding),
            WordsConfig::Adaptive(_) => format!("{}.emb_layers.0.weight", self.names.embedding),
        }
    }

    /// Checks the blocks; the error is a message.
    fn check(&self) -> Result<(), String> {
        if !self.logits_cap.is_none_or(|cap| cap > 0.0) {
            return Err(format!(
                "the logits are soft-capped at {:?}: want a positive number",
                self.logits_cap.unwrap_or(0.0)
            ));
        }
        if self.hmt.is_some() && self.per_layer.is_some() {
            return Err("a hierarchical memory goes with no embeddings for each layer".into());
        }
        let mut sources = Vec::new();
        for (i, mixer) in self.blocks.iter().enumerate().flat_map(|(i, block)| block.mixers().map(move |m| (i, m))) {
            match mixer {
                MixerConfig::Attention(AttentionConfig { source: KvSource::Shared(source), .. }) => {
                    sources.push(*source)
                }
                MixerConfig::Attention(AttentionConfig { source: KvSource::Layer(source), .. })
                    if !sources.contains(source) =>
                {
                    return Err(format!("block {i} uses the keys of {source}, which no earlier layer shares"));
                }
                _ => {}
            }
        }
        for (i, block) in self.blocks.iter().enumerate() {
            let Some(of) = block.shares else { continue };
            let there = self.blocks[..i].get(of).is_some_and(|other| other.shares.is_none());
            if !there {
                return Err(format!(
                    "block {i} uses the weights of block {of}: want an earlier block with weights of its own"
                ));
            }
            if self.blocks[of].branches != block.branches {
                return Err(format!("block {i} uses the weights of block {of}, which has different branches"));
            }
        }
        Ok(())
    }
}

/// The names of the decoder's parts in a checkpoint. Blocks name their own parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecoderNames {
    /// The prefix of all parts but the head, without the trailing dot.
    pub body: String,
    /// The embedding.
    pub embedding: String,
    /// The blocks.
    pub blocks: String,
    /// The head, outside the body.
    pub head: String,
}

impl DecoderNames {
    /// The names of the body, its embedding, its blocks, and the head.
    pub fn new([body, embedding, blocks, head]: [&str; 4]) -> Self {
        let [body, embedding, blocks, head] = [body, embedding, blocks, head].map(str::to_owned);
        Self { body, embedding, blocks, head }
    }
}

/// A language model.
#[derive(Module, Debug)]
pub struct Decoder {
    words: Words,
    positions: Option<Embedding>,
    first_norm: Option<Norm>,
    /// The blocks that have weights of their own.
    blocks: Vec<Block>,
    /// For each layer, the index of its block.
    layers: Vec<usize>,
    /// `[L, D]`
    lower_bounds: Option<Param<Tensor<2>>>,
    norm: Option<Norm>,
    per_layer: Option<PerLayer>,
    hmt: Option<Hmt>,
    hidden: usize,
    embedding_scale: f64,
    logits_scale: f64,
    logits_cap: Option<f64>,
    recompute: bool,
    #[module(skip)]
    dropout: Option<Dropout>,
}

impl Decoder {
    /// Builds the model under the builder's scope. Errors if the configuration is invalid or a weight is missing or
    /// has another shape.
    pub fn new(b: &mut Builder, c: &DecoderConfig) -> Result<Self, Error> {
        c.check().map_err(|message| b.error(message))?;
        let n = &c.names;
        let words = Words::new(b, n, [c.vocabulary, c.hidden], &c.words)?;
        let (mut blocks, mut layers) = (Vec::new(), Vec::with_capacity(c.blocks.len()));
        let (positions, per_layer, first_norm, lower_bounds, norm) = b.scope(&n.body, |b| {
            let table = |(name, rows): &(String, usize)| Embedding::new(b, name, *rows, c.hidden);
            let positions = c.positions.as_ref().map(table).transpose()?;
            let sizes = [c.hidden, c.blocks.len()];
            let per_layer = c.per_layer.as_ref().map(|c| PerLayer::new(b, sizes, c)).transpose()?;
            let first = c.first_norm.as_ref().map(|norm| norm.build(b, c.hidden)).transpose()?;
            b.scope(&n.blocks, |b| {
                for (i, block) in c.blocks.iter().enumerate() {
                    if let Some(of) = block.shares {
                        layers.push(layers[of]);
                        continue;
                    }
                    layers.push(blocks.len());
                    blocks.push(b.scope(i, |b| Block::new(b, c.hidden, block))?);
                }
                Ok::<_, Error>(())
            })?;
            let bounds = |b: &mut Builder, width| {
                let shape = [c.blocks.len(), width];
                b.param("lower_bounds", shape, Layout::Same, Precision::Full, Init::Constant(0.0))
            };
            let lower_bounds = c.lower_bounds.map(|width| bounds(b, width)).transpose()?;
            let norm = c.last_norm.as_ref().map(|norm| norm.build(b, c.hidden)).transpose()?;
            Ok::<_, Error>((positions, per_layer, first, lower_bounds, norm))
        })?;
        let hmt = c.hmt.as_ref().map(|hmt| b.scope("hmt", |b| Hmt::new(b, c.hidden, hmt))).transpose()?;
        Ok(Self {
            words,
            positions,
            first_norm,
            blocks,
            layers,
            lower_bounds,
            norm,
            per_layer,
            hmt,
            hidden: c.hidden,
            embedding_scale: f64::from(c.embedding_scale),
            logits_scale: f64::from(c.logits_scale),
            logits_cap: c.logits_cap.map(f64::from),
            recompute: false,
            dropout: None,
        })
    }

    /// Drops hidden states in forward passes that are recorded, outside of a hierarchical memory; none if `None`. Srivastava et
    /// al. 2014.
    #[must_use]
    pub fn dropping(mut self, dropout: Option<Dropout>) -> Self {
        self.dropout = dropout;
        self
    }

    /// The draws of a pass over `ids`.
    pub(crate) fn drops(&self, ids: &[u32]) -> Option<Drops> {
        let dropout = self.dropout.filter(|_| self.device().is_autodiff());
        dropout.and_then(|dropout| dropout.over(ids))
    }

    /// Whether a recorded forward pass stores the inputs of the blocks alone, which are run again on the way back: one more
    /// forward pass for the memory of the activations. The gradients are the same, but for the state that the pass leaves, through
    /// which none flows to it. A decoder with a hierarchical memory stores everything. Chen et al. 2016, §4.
    #[must_use]
    pub fn recomputing(mut self, recompute: bool) -> Self {
        self.recompute = recompute;
        self
    }

    /// The initial state of `batch` sequences.
    pub fn start(&self, batch: usize) -> Cache {
        let hmt = self.hmt.as_ref().map(|hmt| hmt.start(batch, &self.device()));
        Cache { layers: self.start_layers(batch), hmt, loss: None, batch }
    }

    /// The initial states of the layers.
    pub(crate) fn start_layers(&self, batch: usize) -> Vec<LayerState> {
        let device = self.device();
        self.layers.iter().map(|i| self.blocks[*i].start(batch, self.hidden, &device)).collect()
    }

    /// Precomputes everything that depends on the weights alone. For inference only: the weights must not change
    /// afterwards.
    #[must_use]
    pub fn prepared(mut self) -> Self {
        self.blocks = self.blocks.into_iter().map(Block::prepared).collect();
        self
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.words.device()
    }

    /// Size of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.words.vocabulary()
    }

    /// The lower bound of each layer's gates, which increases from 0 at the first layer.
    fn bounds(&self) -> Vec<Option<Tensor<1>>> {
        let Some(parameters) = &self.lower_bounds else { return vec![None; self.layers.len()] };
        let shares = activation::softmax(parameters.val(), 0);
        let width = shares.dims()[1];
        let mut sum: Option<Tensor<1>> = None;
        let layer = |i: usize| {
            if i > 0 {
                let share = shares.clone().narrow(0, i, 1).reshape([width]);
                sum = Some(match sum.take() {
                    Some(sum) => sum + share,
                    None => share,
                });
            }
            sum.clone()
        };
        (0..self.layers.len()).map(layer).collect()
    }

    /// Whether batches with padding are supported. They are not if a memory counts tokens for the whole batch.
    pub fn takes_padding(&self) -> bool {
        self.hmt.is_none()
    }

    /// At most this many tokens that are read at once leave the bits of as many that are read one by one, if
    /// [`Decoder::reads_few_as_one`].
    pub const FEW: usize = STREAMED_ROWS;

    /// Whether up to [`Decoder::FEW`] tokens that are read at once leave the bits of as many that are read one by one. They
    /// do not where a layer remembers segments of a text, whose bounds depend on the calls.
    pub fn reads_few_as_one(&self) -> bool {
        self.hmt.is_none() && self.blocks.iter().all(Block::reads_few_as_one)
    }

    /// Whether a hierarchical memory is around the layers.
    pub(crate) fn has_memory(&self) -> bool {
        self.hmt.is_some()
    }

    /// The blocks that have weights of their own.
    pub(crate) fn own_blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The maximum number of tokens of a sequence, if positions are learned; `None` if it is unlimited.
    pub fn longest(&self) -> Option<usize> {
        self.positions.as_ref().map(|table| table.weight.dims()[0])
    }

    /// The table of learned positions.
    pub(crate) fn positions(&self) -> Option<&Embedding> {
        self.positions.as_ref()
    }

    /// What each layer adds of its own for tokens whose embeddings are `x`.
    pub(crate) fn per_layer(&self, ids: &[u32], x: &Tensor<3>) -> Option<Tensor<3>> {
        self.per_layer.as_ref().map(|table| table.forward(ids, x.clone()))
    }

    /// Embeds `batch` contiguous rows of ids → `[B, T, d]`.
    pub(crate) fn embed(&self, ids: &[u32], batch: usize) -> Tensor<3> {
        let x = self.words.embed(ids, batch);
        if self.embedding_scale == 1.0 { x } else { x.mul_scalar(self.embedding_scale) }
    }

    /// Maps normed hidden states `[.., d]` to logits `[.., vocabulary]`, up to an additive constant per row.
    pub fn logits<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        let mut logits = self.words.logits(hidden);
        if self.logits_scale != 1.0 {
            logits = logits.mul_scalar(self.logits_scale);
        }
        match self.logits_cap {
            Some(cap) => logits.div_scalar(cap).tanh().mul_scalar(cap),
            None => logits,
        }
    }

    /// The mean cross-entropy in nats of `targets` given `hidden: [B, T, d]`; negative targets are ignored.
    pub fn loss(&self, hidden: Tensor<3>, targets: &[i64]) -> Tensor<1> {
        let [b, t, d] = hidden.dims();
        let rows = hidden.reshape([b * t, d]);
        if targets.iter().all(|target| *target >= 0) {
            return self.loss_of(rows, targets);
        }
        let counted = targets.iter().enumerate().filter(|(_, target)| **target >= 0);
        let (at, targets): (Vec<i32>, Vec<i64>) = counted.map(|(i, target)| (i as i32, *target)).unzip();
        let at = Tensor::<1, Int>::from_data(&at[..], &rows.device());
        self.loss_of(rows.select(0, at), &targets)
    }

    /// The mean loss of rows `[R, d]`, none of which is ignored.
    fn loss_of(&self, rows: Tensor<2>, targets: &[i64]) -> Tensor<1> {
        if self.logits_cap.is_none() {
            let rows = if self.logits_scale == 1.0 { rows } else { rows.mul_scalar(self.logits_scale) };
            return self.words.loss(rows, targets);
        }
        // The fused linear cross-entropy does not support a soft-cap.
        let logits = activation::log_softmax(self.logits(rows), 1);
        let targets: Vec<i32> = targets.iter().map(|target| *target as i32).collect();
        let at = Tensor::<1, Int>::from_data(&targets[..], &logits.device()).unsqueeze_dim(1);
        logits.gather(1, at).mean().neg()
    }
}
