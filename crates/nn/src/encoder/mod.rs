//! The skeleton of an encoder: embeddings, blocks of attention and feed-forward with norms before or behind them, norm.
//!
//! Sequences of a batch are packed one behind the other in one row, and then nothing is computed that is not there; or they are rows of equal length with
//! padding, as other libraries have them.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use longreach_attention::rotary::{Angles, Rotary};
use longreach_burn as ops;
use ndarray::Array2;

use crate::feed_forward::{FeedForward, FeedForwardConfig};
use crate::mixers::AttentionConfig;
use crate::norm::{Norm, NormConfig, Order};
use crate::{Builder, Embedding, Error};

mod attention;
pub(crate) mod rows;

use attention::Call;
pub use attention::{NystromConfig, Sees, SelfAttention};
use rows::{by_rows, rows_of};

/// The sizes and names of the skeleton.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Size of the vocabulary.
    pub vocabulary: usize,
    /// `d`: width of the model.
    pub hidden: usize,
    /// The blocks, in order.
    pub blocks: Vec<EncoderBlockConfig>,
    /// What learned positions there are, if any.
    pub positions: Option<Positions>,
    /// How many types of tokens have an embedding.
    pub types: Option<usize>,
    /// What embeddings of tokens are multiplied by.
    pub scale: Option<f32>,
    /// The norms.
    pub norm: NormConfig,
    /// Where they stand.
    pub order: Order,
    /// Whether the first block's attention has no norm before it: the embeddings' does.
    pub first_unnormed: bool,
    /// Whether there is a norm behind the last block.
    pub last_norm: bool,
    /// The feed-forward layers.
    pub feed_forward: FeedForwardConfig,
    /// Names of the parts in a checkpoint.
    pub names: EncoderNames,
}

/// A block's attention.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderBlockConfig {
    /// Its sizes.
    pub attention: AttentionConfig,
    /// Who sees whom.
    pub sees: Sees,
}

/// How learned positions are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions {
    /// Rows of the table.
    pub rows: usize,
    /// The row of the first token.
    pub first: usize,
    /// A token that has the row before the first, and is not counted: padding, as RoBERTa has it.
    pub skip: Option<u32>,
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
    attention: SelfAttention,
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
    embedding_norm: Norm,
    blocks: Vec<EncoderBlock>,
    last_norm: Option<Norm>,
    #[module(skip)]
    rest: Rest,
}

#[derive(Clone, Debug)]
struct Rest {
    positions: Option<Positions>,
    scale: Option<f32>,
}

/// A batch of tokens.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// Rows of equal length, one behind the other; with `packed` one row.
    pub ids: &'a [u32],
    /// How many rows.
    pub batch: usize,
    /// The type of each token; 0 if absent.
    pub types: Option<&'a [u32]>,
    /// Which tokens are there and not padding, `[B, T]`
    pub keep: Option<&'a Array2<bool>>,
    /// Which tokens are global, `[B, T]`; only a Longformer asks.
    pub global: Option<&'a Array2<bool>>,
    /// The bounds of sequences packed in one row: 0, the end of the first, …, the number of tokens.
    pub packed: Option<&'a [usize]>,
}

impl<'a> Reading<'a> {
    /// One text.
    pub fn one(ids: &'a [u32]) -> Self {
        Self { ids, batch: 1, types: None, keep: None, global: None, packed: None }
    }

    fn tokens(&self) -> usize {
        self.ids.len() / self.batch.max(1)
    }

    /// The sequences' bounds among all ids: those of packed ones, or of rows.
    pub fn bounds(&self) -> Vec<usize> {
        match self.packed {
            Some(bounds) => bounds.to_vec(),
            None => (0..=self.batch).map(|b| b * self.tokens()).collect(),
        }
    }
}

impl Encoder {
    /// The model under the builder's scope.
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
            let rest = Rest { positions: c.positions, scale: c.scale };
            Ok(Self { embedding, positions, types, embedding_norm, blocks, last_norm, rest })
        })
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.embedding.weight.val().device()
    }

    /// The table of embeddings, `[vocabulary, d]`.
    pub fn embeddings(&self) -> Tensor<2> {
        self.embedding.weight.val()
    }

    /// The blocks' attentions, in order.
    pub fn attentions(&self) -> impl Iterator<Item = &SelfAttention> {
        self.blocks.iter().map(|block| &block.attention)
    }

    /// The hidden states, `[B, T, d]`. Panics if an id, a type or a position is beyond its table, or rows are not of equal length.
    pub fn forward(&self, of: &Reading<'_>) -> Tensor<3> {
        let mut x = self.embed(of);
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
            x = block.forward(x, &call);
        }
        match &self.last_norm {
            Some(norm) => by_rows(x, |x, _| norm.forward(x)),
            None => x,
        }
    }

    /// The embeddings of tokens, positions and types, normed.
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
    /// How many tokens of a text have a row.
    pub fn longest(&self) -> usize {
        self.rows.saturating_sub(self.first)
    }

    /// The row of each token.
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

/// The angles of a batch's positions.
fn turned(rotary: &Rotary, of: &Reading<'_>) -> Arc<Angles> {
    let positions: Vec<usize> = match of.packed {
        Some(bounds) => bounds.windows(2).flat_map(|w| 0..w[1] - w[0]).collect(),
        None => (0..of.tokens()).collect(),
    };
    let longest = positions.iter().max().map_or(0, |most| most + 1);
    let positions = Array2::from_shape_vec((1, positions.len()), positions).expect("one row");
    // That it can be made was checked when the attention was built.
    Arc::new(rotary.angles(positions.view(), longest, &ops::context()).unwrap_or_else(|e| panic!("{e}")))
}

impl EncoderBlock {
    fn forward(&self, x: Tensor<3>, call: &Call<'_>) -> Tensor<3> {
        let normed = match &self.norm {
            Some(norm) if self.before => norm.forward(x.clone()),
            _ => x.clone(),
        };
        let heads = self.attention.heads(normed, call);
        let [b, t, h, width] = heads.dims();
        let heads = heads.reshape([b, t, h * width]);
        by_rows(x, |x, rows| {
            let n = rows.len();
            let seen = self.attention.out(rows_of(&heads, rows).reshape([1, n, h, width]));
            if self.before {
                let x = ops::add(x, seen);
                let y = self.feed_forward.forward(self.second_norm.forward(x.clone()));
                return ops::add(x, y);
            }
            let x = match &self.norm {
                Some(norm) => norm.of_sum(x, seen),
                None => ops::add(x, seen),
            };
            let y = self.feed_forward.forward(x.clone());
            self.second_norm.of_sum(x, y)
        })
    }
}
