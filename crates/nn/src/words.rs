//! The token embedding and the language-model head.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use longreach_burn as ops;

use crate::adaptive::{Adaptive, AdaptiveConfig};
use crate::linear::Bias;
use crate::{Builder, DecoderNames, Embedding, Error, Linear};

/// The type of the embedding and the head.
#[derive(Clone, Debug, PartialEq)]
pub enum WordsConfig {
    /// An embedding table, and a linear head that is tied to it or has its own weights.
    Table {
        /// Whether the head's weight is the embedding table.
        tied: bool,
    },
    /// Adaptive embedding and softmax: clusters of increasingly rare tokens, with increasingly narrow embeddings.
    /// Grave et al. 2017; Baevski and Auli 2019.
    Adaptive(AdaptiveConfig),
}

/// The token embedding and the head of a model.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one per model")]
pub enum Words {
    /// A table and a linear head.
    Table(Table),
    /// Adaptive embedding and softmax.
    Adaptive(Adaptive),
}

/// An embedding table and a linear head.
#[derive(Module, Debug)]
pub struct Table {
    embedding: Embedding,
    head: Option<Linear>,
}

impl Words {
    /// Builds the embedding and the head of a model with `vocabulary` tokens and `d` channels. Errors if a size is
    /// invalid, or a weight is missing or has another shape.
    pub fn new(b: &mut Builder, n: &DecoderNames, [vocabulary, d]: [usize; 2], c: &WordsConfig) -> Result<Self, Error> {
        Ok(match c {
            WordsConfig::Table { tied } => {
                let embedding = b.scope(&n.body, |b| Embedding::new(b, &n.embedding, vocabulary, d))?;
                let head = if *tied { None } else { Some(Linear::new(b, &n.head, d, vocabulary, Bias::No)?) };
                Words::Table(Table { embedding, head })
            }
            WordsConfig::Adaptive(c) => Words::Adaptive(Adaptive::new(b, n, [vocabulary, d], c)?),
        })
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        match self {
            Words::Table(table) => table.embedding.weight.device(),
            Words::Adaptive(adaptive) => adaptive.device(),
        }
    }

    /// Size of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        match self {
            Words::Table(table) => table.embedding.weight.dims()[0],
            Words::Adaptive(adaptive) => adaptive.vocabulary(),
        }
    }

    /// Embeds `batch` contiguous rows of ids → `[B, T, d]`. Panics if an id exceeds the vocabulary.
    pub fn embed(&self, ids: &[u32], batch: usize) -> Tensor<3> {
        match self {
            Words::Table(table) => table.embedding.forward(ids, batch),
            Words::Adaptive(adaptive) => adaptive.embed(ids, batch),
        }
    }

    /// `[.., d]` → logits `[.., vocabulary]`, up to an additive constant per row.
    pub fn logits<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        match self {
            Words::Table(Table { head: Some(head), .. }) => head.forward(hidden),
            Words::Table(table) => table.embedding.weight.forward(hidden, None),
            Words::Adaptive(adaptive) => adaptive.logits(hidden),
        }
    }

    /// The mean cross-entropy in nats of `targets` given `hidden: [R, d]`; negative targets are ignored.
    pub fn loss(&self, hidden: Tensor<2>, targets: &[i64]) -> Tensor<1> {
        match self {
            Words::Table(table) => {
                let weight = table.head.as_ref().map_or(&table.embedding.weight, |head| &head.weight);
                ops::linear_cross_entropy(hidden, weight.full(), targets)
            }
            Words::Adaptive(adaptive) => adaptive.loss(hidden, targets),
        }
    }
}
