//! The bodies an encoder may have.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::{Builder, Encoder, EncoderConfig, Error, Reading, Reformer, ReformerConfig, SelfAttention};

/// What a body is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum BodyConfig {
    /// Blocks of attention and feed-forward.
    Blocks(EncoderConfig),
    /// Reformer's.
    Reformer(ReformerConfig),
}

impl BodyConfig {
    /// Size of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        match self {
            BodyConfig::Blocks(c) => c.vocabulary,
            BodyConfig::Reformer(c) => c.vocabulary,
        }
    }

    /// Width of its hidden states.
    pub fn width(&self) -> usize {
        match self {
            BodyConfig::Blocks(c) => c.hidden,
            BodyConfig::Reformer(c) => 2 * c.hidden,
        }
    }

    /// How many types of tokens have an embedding.
    pub fn types(&self) -> Option<usize> {
        match self {
            BodyConfig::Blocks(c) => c.types,
            BodyConfig::Reformer(_) => None,
        }
    }

    /// The name before its parts in a checkpoint.
    pub fn name(&self) -> &'static str {
        match self {
            BodyConfig::Blocks(c) => c.names.body,
            BodyConfig::Reformer(_) => "reformer",
        }
    }
}

/// An encoder without its heads.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "one a model")]
pub enum Body {
    /// Blocks of attention and feed-forward.
    Blocks(Encoder),
    /// Reformer's.
    Reformer(Reformer),
}

impl Body {
    /// The body under the builder's scope.
    pub fn new(b: &mut Builder, c: &BodyConfig) -> Result<Self, Error> {
        Ok(match c {
            BodyConfig::Blocks(c) => Body::Blocks(Encoder::new(b, c)?),
            BodyConfig::Reformer(c) => Body::Reformer(Reformer::new(b, c)?),
        })
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        match self {
            Body::Blocks(encoder) => encoder.device(),
            Body::Reformer(reformer) => reformer.device(),
        }
    }

    /// The table of embeddings, `[vocabulary, d]`.
    pub fn embeddings(&self) -> Tensor<2> {
        match self {
            Body::Blocks(encoder) => encoder.embeddings(),
            Body::Reformer(reformer) => reformer.embeddings(),
        }
    }

    /// The attentions of blocks, in order; none of a Reformer.
    pub fn attentions(&self) -> impl Iterator<Item = &SelfAttention> {
        let encoder = match self {
            Body::Blocks(encoder) => Some(encoder),
            Body::Reformer(_) => None,
        };
        encoder.into_iter().flat_map(Encoder::attentions)
    }

    /// The hidden states, `[B, T, width]`. Panics as [`Encoder::forward`] and [`Reformer::forward`] do.
    pub fn forward(&self, of: &Reading<'_>) -> Tensor<3> {
        match self {
            Body::Blocks(encoder) => encoder.forward(of),
            Body::Reformer(reformer) => reformer.forward(of),
        }
    }
}
