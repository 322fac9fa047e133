//! The encoder: embeddings, pre-norm or post-norm blocks of attention and feed-forward, final norm.
//!
//! The sequences of a batch are either packed contiguously in one row, so that nothing is computed for padding, or
//! they are rows of equal length with padding, as in other libraries.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use longreach_attention::rotary::{Angles, Rotary};
use longreach_burn as ops;
use ndarray::Array2;

use crate::dropout::{Dropout, Drops};
use crate::feed_forward::{FeedForward, FeedForwardConfig};
use crate::mixers::AttentionConfig;
use crate::norm::{Norm, NormConfig, Order};
use crate::recompute::recomputed;
use crate::{Builder, Embedding, Error};

mod attention;
mod mixed;
pub(crate) mod rows;

use attention::Call;
pub use attention::{NystromConfig, Sees, SelfAttention};
pub use mixed::{MixedBlock, MixedBlockConfig, MixedConfig, MixedEncoder, Sequence, SequenceConfig};
use rows::{by_rows, rows_of};

/// The sizes and names of an encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Size of the vocabulary.
    pub vocabulary: usize,
    /// `d`: width of the model.
    pub hidden: usize,
    /// The blocks, in order.
    pub blocks: Vec<EncoderBlockConfig>,
    /// Learned positions, if the model has them.
    pub positions: Option<Positions>,
    /// The number of token types that have an embedding; `None` if there are no type embeddings.
    pub types: Option<usize>,
    /// The factor of the token embeddings.
    pub scale: Option<f32>,
    /// The norms.
    pub norm: NormConfig,
    /// Whether blocks are pre-norm or post-norm.
    pub order: Order,
    /// Whether the attention of the first block has no norm of its own, since the embeddings are normed already.
    pub first_unnormed: bool,
    /// Whether a norm follows the last block.
    pub last_norm: bool,
    /// The feed-forward layers.
    pub feed_forward: FeedForwardConfig,
    /// Names of the parts in a checkpoint.
    pub names: EncoderNames,
}

/// The attention of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderBlockConfig {
    /// Its sizes.
    pub attention: AttentionConfig,
    /// Its attention pattern.
    pub sees: Sees,
}

/// How rows of the table of learned positions are assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions {
    /// The number of rows of the table.
    pub rows: usize,
    /// The row of the first token.
    pub first: usize,
    /// A token that gets the row before `first` and does not advance the position: padding in RoBERTa.
    pub skip: Option<u32>,
}

/// The names of the parts in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub struct EncoderNames {
    pub body: &'static str,
    pub embedding: &'static str,
    pub positions: &'static str,
    pub types: &'static str,
    pub embedding_norm: &'static str,
    pub layers: &'static str,
    pub attention: &'static str,
    pub norm: &'static str,
    pub feed_forward: &'static str,
    pub second_norm: &'static str,
    pub last_norm: &'static str,
}

/// A block.
#[derive(Module, Debug)]
pub struct EncoderBlock {
    attention: SelfAttention,
    norm: Option<Norm>,
    feed_forward: FeedForward,
    second_norm: Norm,
    before: bool,
}

/// An encoder.
#[derive(Module, Debug)]
pub struct Encoder {
    embedding: Embedding,
    positions: Option<Embedding>,
    types: Option<Embedding>,
    embedding_norm: Norm,
    blocks: Vec<EncoderBlock>,
    last_norm: Option<Norm>,
    recompute: bool,
    #[module(skip)]
    rest: Rest,
}

#[derive(Clone, Debug)]
struct Rest {
    dropout: Option<Dropout>,
    positions: Option<Positions>,
    scale: Option<f32>,
}

/// A batch of tokens.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// Token ids in contiguous rows of equal length; one row if `packed` is given.
    pub ids: &'a [u32],
    /// The number of rows.
    pub batch: usize,
    /// The type of each token; all 0 if absent.
    pub types: Option<&'a [u32]>,
    /// Which tokens are not padding, `[B, T]`.
    pub keep: Option<&'a Array2<bool>>,
    /// Which tokens are global, `[B, T]`; read only by Longformer.
    pub global: Option<&'a Array2<bool>>,
    /// The bounds of sequences packed in one row: 0, the end of the first, …, the number of tokens.
    pub packed: Option<&'a [usize]>,
}

impl<'a> Reading<'a> {
    /// A batch of one sequence.
    pub fn one(ids: &'a [u32]) -> Self {
        Self { ids, batch: 1, types: None, keep: None, global: None, packed: None }
    }

    fn tokens(&self) -> usize {
        self.ids.len() / self.batch.max(1)
    }

    /// The bounds of the sequences within `ids`, whether they are packed or rows.
    pub fn bounds(&self) -> Vec<usize> {
        match self.packed {
            Some(bounds) => bounds.to_vec(),
            None => (0..=self.batch).map(|b| b * self.tokens()).collect(),
        }
    }
}

impl Encoder {
    /// Builds the encoder under the builder's scope. Errors if a weight is missing or has another shape.
    pub fn new(b: &mut Builder, c: &EncoderConfig) -> Result<Self, Error> {
        let n = c.names;
        let table = |b: &mut Builder, name: &str, rows: Option<usize>| {
            rows.map(|rows| Embedding::new(b, name, rows, c.hidden)).transpose()
        };
        b.scope(n.body, |b| {
            let embedding = Embedding::new(b, n.embedding, c.vocabulary, c.hidden)?;
            let positions = table(b, n.positions, c.positions.map(|p| p.rows))?;
            let types = table(b, n.types, c.types)?;
            let embedding_norm = Norm::new(b, n.embedding_norm, c.hidden, c.norm)?;
            let block = |b: &mut Builder, i: usize, block: &EncoderBlockConfig| {
                let norm = !(c.first_unnormed && i == 0);
                Ok::<_, Error>(EncoderBlock {
                    attention: b.scope(n.attention, |b| SelfAttention::new(b, &block.attention, &block.sees))?,
                    norm: if norm { Some(Norm::new(b, n.norm, c.hidden, c.norm)?) } else { None },
                    feed_forward: b.scope(n.feed_forward, |b| FeedForward::new(b, c.hidden, &c.feed_forward))?,
                    second_norm: Norm::new(b, n.second_norm, c.hidden, c.norm)?,
                    before: c.order == Order::Before,
                })
            };
            let blocks = b.scope(n.layers, |b| {
                let blocks = c.blocks.iter().enumerate();
                blocks.map(|(i, c)| b.scope(i, |b| block(b, i, c))).collect::<Result<Vec<_>, _>>()
            })?;
            let last_norm = if c.last_norm { Some(Norm::new(b, n.last_norm, c.hidden, c.norm)?) } else { None };
            let rest = Rest { dropout: None, positions: c.positions, scale: c.scale };
            Ok(Self { embedding, positions, types, embedding_norm, blocks, last_norm, recompute: false, rest })
        })
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.embedding.weight.device()
    }

    /// See [`Decoder::recomputing`](crate::Decoder::recomputing).
    #[must_use]
    pub fn recomputing(mut self, recompute: bool) -> Self {
        self.recompute = recompute;
        self
    }

    /// Drops hidden states in forward passes that are recorded; none if `None`.
    #[must_use]
    pub fn dropping(mut self, dropout: Option<Dropout>) -> Self {
        self.rest.dropout = dropout;
        self
    }

    /// The embedding table, `[vocabulary, d]`.
    pub fn embeddings(&self) -> Tensor<2> {
        self.embedding.weight.float()
    }

    /// The attention layers of the blocks, in order.
    pub fn attentions(&self) -> impl Iterator<Item = &SelfAttention> {
        self.blocks.iter().map(|block| &block.attention)
    }

    /// The hidden states, `[B, T, d]`. Panics if an id, a type or a position exceeds its table, or if rows differ in
    /// length.
    pub fn forward(&self, of: &Reading<'_>) -> Tensor<3> {
        let mut x = self.embed(of);
        let dropout = self.rest.dropout.filter(|_| x.is_autodiff());
        let mut drops = dropout.and_then(|dropout| dropout.over(of.ids));
        if let Some(drops) = &mut drops {
            x = drops.drop(x);
        }
        let mut angles: Vec<(Rotary, Arc<Angles>)> = Vec::new();
        for block in &self.blocks {
            let rotary =
                block.attention.config().rotary.clone().map(|rotary| match angles.iter().find(|(r, _)| *r == rotary) {
                    Some((_, angles)) => angles.clone(),
                    None => {
                        let made = turned(&rotary, of);
                        angles.push((rotary, made.clone()));
                        made
                    }
                });
            let call = Call { keep: of.keep, global: of.global, packed: of.packed, angles: rotary };
            let of_block = drops;
            // The attention and the feed-forward layer.
            drops = drops.map(|drops| drops.after(2));
            x = match self.recompute && x.is_autodiff() {
                true => block.recomputed(x, &call, of_block),
                false => block.forward(x, &call, of_block),
            };
        }
        match &self.last_norm {
            Some(norm) => by_rows(x, |x, _| norm.forward(x)),
            None => x,
        }
    }

    /// The sum of the embeddings of tokens, positions and types, normed.
    fn embed(&self, of: &Reading<'_>) -> Tensor<3> {
        let mut x = self.embedding.forward(of.ids, of.batch);
        if let Some(scale) = self.rest.scale {
            x = x * scale;
        }
        if let (Some(table), Some(positions)) = (&self.positions, self.rest.positions) {
            x = ops::add(x, table.forward(&positions.of(of), of.batch));
        }
        if let Some(table) = &self.types {
            let none = vec![0; of.ids.len()];
            x = ops::add(x, table.forward(of.types.unwrap_or(&none), of.batch));
        }
        by_rows(x, |x, _| self.embedding_norm.forward(x))
    }
}

impl Positions {
    /// The maximum number of tokens of a text.
    pub fn longest(&self) -> usize {
        self.rows.saturating_sub(self.first)
    }

    /// The row of the position table for each token.
    pub(crate) fn of(&self, of: &Reading<'_>) -> Vec<u32> {
        let mut rows = Vec::with_capacity(of.ids.len());
        for bounds in of.bounds().windows(2) {
            let mut next = self.first as u32;
            for id in &of.ids[bounds[0]..bounds[1]] {
                if self.skip == Some(*id) {
                    rows.push(self.first as u32 - 1);
                } else {
                    rows.push(next);
                    next += 1;
                }
            }
        }
        rows
    }
}

/// The rotary angles of a batch.
fn turned(rotary: &Rotary, of: &Reading<'_>) -> Arc<Angles> {
    let positions: Vec<usize> = match of.packed {
        Some(bounds) => bounds.windows(2).flat_map(|w| 0..w[1] - w[0]).collect(),
        None => (0..of.tokens()).collect(),
    };
    let longest = positions.iter().max().map_or(0, |most| most + 1);
    let positions = Array2::from_shape_vec((1, positions.len()), positions).expect("one row");
    // The configuration was validated when the attention was built.
    Arc::new(rotary.angles(positions.view(), longest, &ops::context()).unwrap_or_else(|e| panic!("{e}")))
}

impl EncoderBlock {
    /// As [`EncoderBlock::forward`], without storing activations.
    fn recomputed(&self, x: Tensor<3>, call: &Call<'_>, drops: Option<Drops>) -> Tensor<3> {
        let (keep, global) = (call.keep.cloned(), call.global.cloned());
        let (packed, angles) = (call.packed.map(<[usize]>::to_vec), call.angles.clone());
        let mut out = recomputed(self, vec![x], move |block: &Self, mut inputs| {
            let (keep, global, packed) = (keep.as_ref(), global.as_ref(), packed.as_deref());
            let call = Call { keep, global, packed, angles: angles.clone() };
            vec![block.forward(inputs.swap_remove(0), &call, drops)]
        });
        out.swap_remove(0)
    }

    fn forward(&self, x: Tensor<3>, call: &Call<'_>, drops: Option<Drops>) -> Tensor<3> {
        // Of what a layer adds, the first or the second of the block.
        let dropped = |x: Tensor<3>, layer: u64| match drops {
            Some(drops) => drops.after(layer).drop(x),
            None => x,
        };
        let normed = match &self.norm {
            Some(norm) if self.before => norm.forward(x.clone()),
            _ => x.clone(),
        };
        let heads = self.attention.heads(normed, call);
        let [b, t, h, width] = heads.dims();
        let heads = heads.reshape([b, t, h * width]);
        by_rows(x, |x, rows| {
            let n = rows.len();
            let seen = dropped(self.attention.out(rows_of(&heads, rows).reshape([1, n, h, width])), 0);
            if self.before {
                let x = ops::add(x, seen);
                let y = self.feed_forward.forward(self.second_norm.forward(x.clone()));
                return ops::add(x, dropped(y, 1));
            }
            let x = match &self.norm {
                Some(norm) => norm.of_sum(x, seen),
                None => ops::add(x, seen),
            };
            let y = dropped(self.feed_forward.forward(x.clone()), 1);
            self.second_norm.of_sum(x, y)
        })
    }
}
