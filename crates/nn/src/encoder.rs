//! The skeleton of an encoder: embeddings, blocks of attention and feed-forward with norms before or behind them, norm.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use longreach_attention::softmax::Attend;
use ndarray::Array2;

use crate::feed_forward::{FeedForward, FeedForwardConfig};
use crate::mixers::{Attention, Seen};
use crate::norm::{Norm, NormConfig, Order};
use crate::{Builder, Embedding, Error};

/// The sizes and names of the skeleton.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Size of the vocabulary.
    pub vocabulary: usize,
    /// `d`: width of the model.
    pub hidden: usize,
    /// How many blocks.
    pub layers: usize,
    /// How many positions have a learned embedding; absent for none.
    pub positions: Option<usize>,
    /// How many types of tokens have one.
    pub types: Option<usize>,
    /// The norms.
    pub norm: NormConfig,
    /// Where they stand.
    pub order: Order,
    /// Whether the embeddings are normed.
    pub embedding_norm: bool,
    /// Whether the first block's attention has no norm before it: the embeddings' does.
    pub first_unnormed: bool,
    /// Whether there is a norm behind the last block.
    pub last_norm: bool,
    /// The feed-forward layers.
    pub feed_forward: FeedForwardConfig,
    /// Names of the parts in a checkpoint.
    pub names: EncoderNames,
}

/// What a checkpoint calls the parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say all there is")]
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

/// One block.
#[derive(Module, Debug)]
pub struct EncoderBlock {
    attention: Attention,
    norm: Option<Norm>,
    feed_forward: FeedForward,
    second_norm: Norm,
    before: bool,
}

/// The model.
#[derive(Module, Debug)]
pub struct Encoder {
    embedding: Embedding,
    positions: Option<Embedding>,
    types: Option<Embedding>,
    embedding_norm: Option<Norm>,
    blocks: Vec<EncoderBlock>,
    last_norm: Option<Norm>,
}

/// A batch of tokens, and who sees whom.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// Rows of equal length, one behind the other; with `packed` one row.
    pub ids: &'a [u32],
    /// How many rows.
    pub batch: usize,
    /// The type of each token; 0 if absent.
    pub types: Option<&'a [u32]>,
    /// Which tokens are there and not padding, `[B, T]`
    pub keep: Option<&'a Array2<bool>>,
    /// The bounds of sequences packed in one row.
    pub packed: Option<&'a [usize]>,
    /// The mechanism of each block.
    pub mechanism: &'a dyn Fn(usize) -> Arc<dyn Attend>,
}

impl std::fmt::Debug for Reading<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { ids, batch, types, keep, packed, .. } = self;
        let mut out = f.debug_struct("Reading");
        out.field("ids", ids).field("batch", batch).field("types", types).field("keep", keep).field("packed", packed);
        out.finish_non_exhaustive()
    }
}

impl Encoder {
    /// The model; `attention` builds that of block `i` under its scope.
    pub fn new(
        b: &mut Builder,
        c: &EncoderConfig,
        attention: impl Fn(&mut Builder, usize) -> Result<Attention, Error>,
    ) -> Result<Self, Error> {
        let n = c.names;
        let norm = |b: &mut Builder, name: &str, there: bool| {
            if there { Norm::new(b, name, c.hidden, c.norm).map(Some) } else { Ok(None) }
        };
        let table = |b: &mut Builder, name: &str, rows: Option<usize>| {
            rows.map(|rows| Embedding::new(b, name, rows, c.hidden)).transpose()
        };
        b.scope(n.body, |b| {
            let embedding = Embedding::new(b, n.embedding, c.vocabulary, c.hidden)?;
            let (positions, types) = (table(b, n.positions, c.positions)?, table(b, n.types, c.types)?);
            let embedding_norm = norm(b, n.embedding_norm, c.embedding_norm)?;
            let block = |b: &mut Builder, i: usize| {
                Ok::<_, Error>(EncoderBlock {
                    attention: b.scope(n.attention, |b| attention(b, i))?,
                    norm: norm(b, n.norm, !(c.first_unnormed && i == 0))?,
                    feed_forward: b.scope(n.feed_forward, |b| FeedForward::new(b, c.hidden, &c.feed_forward))?,
                    second_norm: Norm::new(b, n.second_norm, c.hidden, c.norm)?,
                    before: c.order == Order::Before,
                })
            };
            let blocks = b.scope(n.layers, |b| {
                (0..c.layers).map(|i| b.scope(i, |b| block(b, i))).collect::<Result<Vec<_>, _>>()
            })?;
            let last_norm = norm(b, n.last_norm, c.last_norm)?;
            Ok(Self { embedding, positions, types, embedding_norm, blocks, last_norm })
        })
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.embedding.weight.val().device()
    }

    /// The hidden states, `[B, T, d]`. Panics if an id or a position is beyond its table, or rows are not of equal length.
    pub fn forward(&self, of: &Reading<'_>) -> Tensor<3> {
        let tokens = of.ids.len() / of.batch.max(1);
        let mut x = self.embedding.forward(of.ids, of.batch);
        if let Some(table) = &self.positions {
            let places: Vec<u32> = match of.packed {
                Some(bounds) => bounds.windows(2).flat_map(|w| 0..(w[1] - w[0]) as u32).collect(),
                None => (0..tokens as u32).collect(),
            };
            x = x + table.forward(&places, 1);
        }
        if let Some(table) = &self.types {
            let none = vec![0; of.ids.len()];
            x = x + table.forward(of.types.unwrap_or(&none), of.batch);
        }
        if let Some(norm) = &self.embedding_norm {
            x = norm.forward(x);
        }
        for (i, block) in self.blocks.iter().enumerate() {
            let seen = Seen { mechanism: (of.mechanism)(i), keep: of.keep, packed: of.packed };
            x = block.forward(x, &seen);
        }
        match &self.last_norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }
}

impl EncoderBlock {
    fn forward(&self, x: Tensor<3>, seen: &Seen<'_>) -> Tensor<3> {
        let normed = |x: Tensor<3>| match &self.norm {
            Some(norm) => norm.forward(x),
            None => x,
        };
        if self.before {
            let x = x.clone() + self.attention.both_ways(normed(x), seen);
            return x.clone() + self.feed_forward.forward(self.second_norm.forward(x));
        }
        let x = normed(x.clone() + self.attention.both_ways(x, seen));
        self.second_norm.forward(x.clone() + self.feed_forward.forward(x))
    }
}
