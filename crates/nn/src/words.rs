//! What stands between token ids and vectors, at both ends of a language model: the embedding and the head.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use longreach_burn as ops;

use crate::adaptive::{Adaptive, AdaptiveConfig};
use crate::linear::Bias;
use crate::{Builder, DecoderNames, Embedding, Error, Linear};

/// Which of them a model has.
#[derive(Clone, Debug, PartialEq)]
pub enum WordsConfig {
    /// A table, and a head with a row for each token: the table itself, or one of its own.
    Table {
        /// Whether the head is the table.
        tied: bool,
    },
    /// Clusters of rarer and rarer tokens, with ever fewer channels. Grave et al. 2017; Baevski and Auli 2019.
    Adaptive(AdaptiveConfig),
}

/// One or the other.
#[derive(Module, Debug)]
pub enum Words {
    /// A table.
    Table(Table),
    /// Clusters.
    Adaptive(Adaptive),
}

/// A table, and a head.
#[derive(Module, Debug)]
pub struct Table {
    embedding: Embedding,
    head: Option<Linear>,
}

impl Words {
    /// Both ends of a model with `vocabulary` tokens and `d` channels.
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

    /// Where the weights are.
    pub fn device(&self) -> Device {
        match self {
            Words::Table(table) => table.embedding.weight.val().device(),
            Words::Adaptive(adaptive) => adaptive.device(),
        }
    }

    /// Size of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        match self {
            Words::Table(table) => table.embedding.weight.val().dims()[0],
            Words::Adaptive(adaptive) => adaptive.vocabulary(),
        }
    }

    /// `batch` rows of ids, one behind the other → `[B, T, d]`. Panics if an id is not below the vocabulary's size.
    pub fn embed(&self, ids: &[u32], batch: usize) -> Tensor<3> {
        match self {
            Words::Table(table) => table.embedding.forward(ids, batch),
            Words::Adaptive(adaptive) => adaptive.embed(ids, batch),
        }
    }

    /// `[.., d]` → `[.., vocabulary]`, up to a number that a row's logits share.
    pub fn logits<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        match self {
            Words::Table(Table { head: Some(head), .. }) => head.forward(hidden),
            Words::Table(table) => ops::linear(hidden, table.embedding.weight.val(), None),
            Words::Adaptive(adaptive) => {
                let mut shape = hidden.dims();
                let d = shape[D - 1];
                let rows = shape[..D - 1].iter().product::<usize>();
                shape[D - 1] = adaptive.vocabulary();
                adaptive.logits(hidden.reshape([rows, d])).reshape(shape)
            }
        }
    }

    /// The mean loss in nats of predicting `targets` from `hidden: [R, d]`; negative targets do not count.
    pub fn loss(&self, hidden: Tensor<2>, targets: &[i64]) -> Tensor<1> {
        match self {
            Words::Table(table) => {
                let weight = table.head.as_ref().map_or_else(|| table.embedding.weight.val(), |head| head.weight.val());
                ops::linear_cross_entropy(hidden, weight, targets)
            }
            Words::Adaptive(adaptive) => adaptive.loss(hidden, targets),
        }
    }
}
