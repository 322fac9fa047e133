//! The body of an encoder model: all its layers except the task heads.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::{
    Builder, Decoder, DecoderConfig, Dropout, Encoder, EncoderConfig, Error, Reading, Reformer, ReformerConfig,
    SelfAttention,
};

/// The configuration of a body.
#[derive(Clone, Debug, PartialEq)]
pub enum BodyConfig {
    /// Blocks of bidirectional attention and feed-forward layers.
    Blocks(EncoderConfig),
    /// A Reformer.
    Reformer(ReformerConfig),
    /// The body of a language model, in which a token attends to itself and to earlier tokens only.
    Decoder(DecoderConfig),
}

impl BodyConfig {
    /// Size of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        match self {
            BodyConfig::Blocks(c) => c.vocabulary,
            BodyConfig::Reformer(c) => c.vocabulary,
            BodyConfig::Decoder(c) => c.vocabulary,
        }
    }

    /// Width of its hidden states.
    pub fn width(&self) -> usize {
        match self {
            BodyConfig::Blocks(c) => c.hidden,
            BodyConfig::Reformer(c) => 2 * c.hidden,
            BodyConfig::Decoder(c) => c.hidden,
        }
    }

    /// The number of token types that have an embedding; `None` if the model has no type embeddings.
    pub fn types(&self) -> Option<usize> {
        match self {
            BodyConfig::Blocks(c) => c.types,
            BodyConfig::Reformer(_) | BodyConfig::Decoder(_) => None,
        }
    }

    /// The prefix of the body's tensors in a checkpoint.
    pub fn name(&self) -> &str {
        match self {
            BodyConfig::Blocks(c) => c.names.body,
            BodyConfig::Reformer(_) => "reformer",
            BodyConfig::Decoder(c) => &c.names.body,
        }
    }

    /// The name, within the body, of the embedding table, which every checkpoint contains.
    pub fn embedding(&self) -> String {
        match self {
            BodyConfig::Blocks(c) => format!("{}.weight", c.names.embedding),
            BodyConfig::Reformer(_) => "embeddings.word_embeddings.weight".into(),
            BodyConfig::Decoder(c) => c.embedding(),
        }
    }
}

/// An encoder without its task heads.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one per model")]
pub enum Body {
    /// Blocks of bidirectional attention and feed-forward layers.
    Blocks(Encoder),
    /// A Reformer.
    Reformer(Reformer),
    /// The body of a language model.
    Decoder(Decoder),
}

impl Body {
    /// Builds the body under the builder's scope. Errors if a weight is missing or has another shape.
    pub fn new(b: &mut Builder, c: &BodyConfig) -> Result<Self, Error> {
        Ok(match c {
            BodyConfig::Blocks(c) => Body::Blocks(Encoder::new(b, c)?),
            BodyConfig::Reformer(c) => Body::Reformer(Reformer::new(b, c)?),
            BodyConfig::Decoder(c) => Body::Decoder(Decoder::new(b, c)?),
        })
    }

    /// See [`Decoder::recomputing`]. The blocks of a Reformer are reversible in any case.
    #[must_use]
    pub fn recomputing(self, recompute: bool) -> Self {
        match self {
            Body::Blocks(encoder) => Body::Blocks(encoder.recomputing(recompute)),
            Body::Decoder(decoder) => Body::Decoder(decoder.recomputing(recompute)),
            Body::Reformer(reformer) => Body::Reformer(reformer),
        }
    }

    /// See [`Decoder::dropping`]. A Reformer drops nothing, as its reversible blocks compute their inputs from their outputs.
    #[must_use]
    pub fn dropping(self, dropout: Option<Dropout>) -> Self {
        match self {
            Body::Blocks(encoder) => Body::Blocks(encoder.dropping(dropout)),
            Body::Decoder(decoder) => Body::Decoder(decoder.dropping(dropout)),
            Body::Reformer(reformer) => Body::Reformer(reformer),
        }
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        match self {
            Body::Blocks(encoder) => encoder.device(),
            Body::Reformer(reformer) => reformer.device(),
            Body::Decoder(decoder) => decoder.device(),
        }
    }

    /// The embedding table, `[vocabulary, d]`, if a head may be tied to it.
    pub fn embeddings(&self) -> Option<Tensor<2>> {
        match self {
            Body::Blocks(encoder) => Some(encoder.embeddings()),
            Body::Reformer(reformer) => Some(reformer.embeddings()),
            Body::Decoder(_) => None,
        }
    }

    /// The attention layers of the blocks in order; empty for a Reformer and for a language model.
    pub fn attentions(&self) -> impl Iterator<Item = &SelfAttention> {
        let encoder = match self {
            Body::Blocks(encoder) => Some(encoder),
            Body::Reformer(_) | Body::Decoder(_) => None,
        };
        encoder.into_iter().flat_map(Encoder::attentions)
    }

    /// The hidden states, `[B, T, width]`. Panics as [`Encoder::forward`] and [`Reformer::forward`] do.
    pub fn forward(&self, of: &Reading<'_>) -> Tensor<3> {
        match self {
            Body::Blocks(encoder) => encoder.forward(of),
            Body::Reformer(reformer) => reformer.forward(of),
            Body::Decoder(decoder) => read(decoder, of),
        }
    }
}

/// The hidden states of a language model. Every row starts from an empty state, and positions do not count padding.
fn read(decoder: &Decoder, of: &Reading<'_>) -> Tensor<3> {
    let alone = |ids: &[u32], batch: usize, mask| decoder.forward(ids, &mut decoder.start(batch), mask);
    match of.packed {
        Some(bounds) => {
            let mut bounds = bounds.to_vec();
            bounds.dedup();
            decoder.forward_packed(of.ids, &bounds, &mut decoder.start(bounds.len() - 1))
        }
        None => {
            let mask = of.keep.map(|keep| {
                let there: Vec<f32> = keep.iter().map(|there| f32::from(u8::from(*there))).collect();
                let (b, t) = keep.dim();
                Tensor::<1>::from_data(&there[..], &decoder.device()).reshape([b, t, 1])
            });
            alone(of.ids, of.batch, mask)
        }
    }
}
