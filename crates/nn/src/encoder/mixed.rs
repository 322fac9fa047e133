//! An encoder of embedded tokens: attention to all tokens, or a causal mixer that is read in both directions, in pre-norm blocks.
//!
//! Positions are those of the mixers: attention to all tokens has none unless it is rotary, so that the order of the columns of a table
//! has no effect.

use burn::module::Module;
use burn::tensor::Tensor;
use longreach_burn as ops;

use super::attention::{Call, Sees, SelfAttention};
use crate::bidirectional::{Bidirectional, BidirectionalConfig, Directions, Sequences, check};
use crate::dropout::Drops;
use crate::mixers::AttentionConfig;
use crate::norm::{Norm, NormConfig};
use crate::{Builder, Error, GatedFeedForward, GatedFeedForwardConfig};

/// What mixes the tokens of a block.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "there is one per layer")]
pub enum SequenceConfig {
    /// Attention to all tokens, without positions.
    Attention(AttentionConfig),
    /// A causal mixer that is read in both directions.
    Bidirectional(BidirectionalConfig),
}

/// A block: a mixer and a gated feed-forward layer.
#[derive(Clone, Debug, PartialEq)]
pub struct MixedBlockConfig {
    /// The mixer.
    pub mixer: SequenceConfig,
    /// The feed-forward layer.
    pub feed_forward: GatedFeedForwardConfig,
}

/// The sizes of the encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct MixedConfig {
    /// `d`: width of the tokens.
    pub hidden: usize,
    /// The blocks, in order.
    pub blocks: Vec<MixedBlockConfig>,
    /// The norms before the layers, and behind the last block.
    pub norm: NormConfig,
}

/// See [`SequenceConfig`].
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one per layer")]
pub enum Sequence {
    /// Attention to all tokens.
    Attention(SelfAttention),
    /// A causal mixer that is read in both directions.
    Bidirectional(Bidirectional),
}

/// See [`MixedBlockConfig`].
#[derive(Module, Debug)]
pub struct MixedBlock {
    norm: Norm,
    mixer: Sequence,
    second_norm: Norm,
    feed_forward: GatedFeedForward,
}

/// The encoder.
#[derive(Module, Debug)]
pub struct MixedEncoder {
    blocks: Vec<MixedBlock>,
    norm: Norm,
}

impl MixedEncoder {
    /// Builds the encoder under the builder's scope: `layers.I.mixer`, `layers.I.feed_forward`, their norms, and `norm`. Errors if a
    /// weight is missing or has another shape, or attention is rotary.
    pub fn new(b: &mut Builder, c: &MixedConfig) -> Result<Self, Error> {
        let block = |b: &mut Builder, of: &MixedBlockConfig| {
            Ok::<_, Error>(MixedBlock {
                norm: Norm::new(b, "mixer_norm", c.hidden, c.norm)?,
                mixer: b.scope("mixer", |b| Sequence::new(b, &of.mixer))?,
                second_norm: Norm::new(b, "feed_forward_norm", c.hidden, c.norm)?,
                feed_forward: b.scope("feed_forward", |b| GatedFeedForward::new(b, c.hidden, &of.feed_forward))?,
            })
        };
        let blocks = b.scope("layers", |b| {
            let blocks = c.blocks.iter().enumerate();
            blocks.map(|(i, c)| b.scope(i, |b| block(b, c))).collect::<Result<Vec<_>, _>>()
        })?;
        Ok(Self { blocks, norm: Norm::new(b, "norm", c.hidden, c.norm)? })
    }

    /// The normed hidden states of embedded tokens, `[B, T, d]` → `[B, T, d]`. What is at padding has no meaning, and no effect on
    /// others.
    ///
    /// Panics as [`Bidirectional::forward`] does.
    pub fn forward(&self, x: Tensor<3>, sequences: &Sequences<'_>) -> Tensor<3> {
        self.dropped(x, sequences, None)
    }

    /// As [`MixedEncoder::forward`], where a part of what each layer adds is dropped.
    pub(crate) fn dropped(&self, mut x: Tensor<3>, sequences: &Sequences<'_>, mut drops: Option<Drops>) -> Tensor<3> {
        let [b, t, _] = x.dims();
        check([b, t], sequences);
        let mut directions = Directions::of(sequences);
        let mut drop = |x: Tensor<3>| match &mut drops {
            Some(drops) => drops.drop(x),
            None => x,
        };
        for block in &self.blocks {
            let seen = block.mixer.read(block.norm.forward(x.clone()), &mut directions, sequences);
            x = ops::add(x, drop(seen));
            let y = block.feed_forward.forward(block.second_norm.forward(x.clone()));
            x = ops::add(x, drop(y));
        }
        self.norm.forward(x)
    }
}

impl Sequence {
    fn new(b: &mut Builder, c: &SequenceConfig) -> Result<Self, Error> {
        Ok(match c {
            SequenceConfig::Attention(c) if c.rotary.is_some() => {
                return Err(b.error("attention to all tokens has no positions here: want no rotary positions"));
            }
            SequenceConfig::Attention(c) => Sequence::Attention(SelfAttention::new(b, c, &Sees::All)?),
            SequenceConfig::Bidirectional(c) => Sequence::Bidirectional(Bidirectional::new(b, c)?),
        })
    }

    fn read(&self, x: Tensor<3>, directions: &mut Directions, sequences: &Sequences<'_>) -> Tensor<3> {
        match self {
            Sequence::Bidirectional(mixer) => mixer.read(x, directions, sequences),
            Sequence::Attention(attention) => {
                let call = Call { keep: sequences.keep, global: None, packed: sequences.packed, angles: None };
                let heads = attention.heads(x, &call);
                attention.out(heads)
            }
        }
    }
}
