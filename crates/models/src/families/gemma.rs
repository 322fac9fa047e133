//! What Gemma 2 and Gemma 3 share: norm weights to which 1 is added, norms before and after each operation, scaled
//! embeddings, and a soft-cap of the logits.

use longreach_nn::mixers::AttentionConfig;
use longreach_nn::{
    Activation, BlockConfig, BranchConfig, DecoderConfig, GatedFeedForwardConfig, NamedNorm, NormConfig,
    OperationConfig,
};

use super::llama::{Defaults, LLAMA, Reader};
use crate::description::activation;
use crate::{Description, Error, Fields};

/// The values that both models may leave out.
pub(crate) const GEMMA: Defaults =
    Defaults { vocabulary: 256_000, hidden: 2304, groups: Some(4), head_dim: Some(256), tied: true, eos: 1, ..LLAMA };

/// A configuration as it is read.
pub(crate) struct Gemma<'a> {
    pub(crate) reader: Reader<'a>,
    scale: f32,
    feed_forward: GatedFeedForwardConfig,
}

impl<'a> Gemma<'a> {
    pub(crate) fn new(reader: Reader<'a>) -> Result<Self, Error> {
        let width = reader.f.number("query_pre_attn_scalar", 256.0)?;
        if width <= 0.0 {
            return Err(reader.f.error(format!("field `query_pre_attn_scalar`: want a number above 0, found {width}")));
        }
        let inner = reader.f.size("intermediate_size", reader.defaults.inner)?;
        let act = activation(reader.f, "hidden_activation", Activation::GeluTanh)?;
        let feed_forward = GatedFeedForwardConfig { activation: act, ..GatedFeedForwardConfig::silu(inner) };
        Ok(Self { reader, scale: width.powf(-0.5) as f32, feed_forward })
    }

    /// RMS norm with 1 added to the weights.
    pub(crate) fn norm(&self) -> NormConfig {
        NormConfig::RmsPlusOne(self.reader.norm_eps)
    }

    /// Attention with the scale of the model.
    pub(crate) fn attention(&self) -> Result<AttentionConfig, Error> {
        Ok(AttentionConfig { scale: Some(self.scale), ..self.reader.attention()? })
    }

    /// A soft-cap: none if the field is null, `default` if it is absent.
    pub(crate) fn cap(&self, name: &str, default: Option<f64>) -> Result<Option<f32>, Error> {
        cap(self.reader.f, name, default)
    }

    /// A block with norms before and after attention and the feed-forward layer.
    pub(crate) fn block(&self, attention: AttentionConfig) -> Result<BlockConfig, Error> {
        let feed_forward = OperationConfig::Gated(self.feed_forward.clone());
        let attention = self.reader.mixer(attention).before("input_layernorm", self.norm());
        let feed_forward = BranchConfig::new("mlp", feed_forward).before("pre_feedforward_layernorm", self.norm());
        Ok(BlockConfig::new(vec![
            attention.after("post_attention_layernorm", self.norm()),
            feed_forward.after("post_feedforward_layernorm", self.norm()),
        ]))
    }

    /// The model of these blocks; `cap` is the default soft-cap of the logits.
    pub(crate) fn describe(
        &self,
        model_type: &'static str,
        blocks: Vec<BlockConfig>,
        cap: Option<f64>,
    ) -> Result<Description, Error> {
        let Description { decoder, eos, .. } = self.reader.describe(model_type, blocks)?;
        let decoder = DecoderConfig {
            embedding_scale: (decoder.hidden as f32).sqrt(),
            last_norm: Some(NamedNorm::new("norm", self.norm())),
            logits_cap: self.cap("final_logit_softcapping", cap)?,
            ..decoder
        };
        Ok(Description::new(model_type, decoder, eos))
    }
}

/// A soft-cap: none if the field is null, `default` if it is absent.
pub(crate) fn cap(f: &Fields, name: &str, default: Option<f64>) -> Result<Option<f32>, Error> {
    let cap = match f.get(name) {
        Some(_) => Some(f.number(name, 1.0)?),
        None if f.given(name) => None,
        None => default,
    };
    match cap {
        Some(cap) if cap <= 0.0 => Err(f.error(format!("field `{name}`: want a number above 0, found {cap}"))),
        cap => Ok(cap.map(|cap| cap as f32)),
    }
}
