//! The bodies an encoder may have.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::{
    Builder, Decoder, DecoderConfig, Encoder, EncoderConfig, Error, Reading, Reformer, ReformerConfig, SelfAttention,
};

/// What a body is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum BodyConfig {
    /// Blocks of attention and feed-forward.
    Blocks(EncoderConfig),
    /// Reformer's.
    Reformer(ReformerConfig),
    /// That of a language model: a token sees itself and what is before it.
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

    /// How many types of tokens have an embedding.
    pub fn types(&self) -> Option<usize> {
        match self {
            BodyConfig::Blocks(c) => c.types,
            BodyConfig::Reformer(_) | BodyConfig::Decoder(_) => None,
        }
    }

    /// The name before its parts in a checkpoint.
    pub fn name(&self) -> &str {
        match self {
            BodyConfig::Blocks(c) => c.names.body,
            BodyConfig::Reformer(_) => "reformer",
            BodyConfig::Decoder(c) => &c.names.body,
        }
    }

    /// The name within the body of a tensor that every checkpoint of it has: its embedding.
    pub fn embedding(&self) -> String {
        match self {
            BodyConfig::Blocks(c) => format!("{}.weight", c.names.embedding),
            BodyConfig::Reformer(_) => "embeddings.word_embeddings.weight".into(),
            BodyConfig::Decoder(c) => c.embedding(),
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
    /// A language model's.
    Decoder(Decoder),
}

impl Body {
    /// The body under the builder's scope.
    pub fn new(b: &mut Builder, c: &BodyConfig) -> Result<Self, Error> {
        Ok(match c {
            BodyConfig::Blocks(c) => Body::Blocks(Encoder::new(b, c)?),
            BodyConfig::Reformer(c) => Body::Reformer(Reformer::new(b, c)?),
            BodyConfig::Decoder(c) => Body::Decoder(Decoder::new(b, c)?),
        })
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        match self {
            Body::Blocks(encoder) => encoder.device(),
            Body::Reformer(reformer) => reformer.device(),
            Body::Decoder(decoder) => decoder.device(),
        }
    }

    /// The table of embeddings, `[vocabulary, d]`, where a head may be it.
    pub fn embeddings(&self) -> Option<Tensor<2>> {
        match self {
            Body::Blocks(encoder) => Some(encoder.embeddings()),
            Body::Reformer(reformer) => Some(reformer.embeddings()),
            Body::Decoder(_) => None,
        }
    }

    /// The attentions of blocks, in order; none of a Reformer or a language model.
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

/// What a language model makes of a batch, each text from its start on. Positions are counted without padding.
fn read(decoder: &Decoder, of: &Reading<'_>) -> Tensor<3> {
    let alone = |ids: &[u32], batch: usize, mask| decoder.forward(ids, &mut decoder.start(batch), mask);
    match of.packed {
        Some(bounds) => {
            let texts = bounds.windows(2).filter(|w| w[0] < w[1]);
            Tensor::cat(texts.map(|w| alone(&of.ids[w[0]..w[1]], 1, None)).collect(), 1)
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
