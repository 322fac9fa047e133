//! What Liquid AI's models share: gated short convolutions among layers of attention, and the names of their parts.

use longreach_nn::mixers::{AttentionConfig, GatedConvConfig, MixerConfig, QkNorm};
use longreach_nn::{
    BlockConfig, BranchConfig, DecoderConfig, GatedFeedForwardConfig, NamedNorm, NormConfig, OperationConfig,
};
use serde_json::json;

use super::llama::{Defaults, LLAMA, Reader};
use crate::{Description, Error, Fields};

/// The defaults that the types share.
pub(crate) const LFM: Defaults =
    Defaults { vocabulary: 65_536, groups: Some(8), theta: 1e6, longest: 128_000, tied: true, ..LLAMA };

/// The fields, with older names replaced.
pub(crate) fn fields(f: &Fields) -> Fields {
    let mut fields = f.clone();
    if let Some(tied) = f.get("tie_embedding") {
        fields.set("tie_word_embeddings", tied.clone());
    }
    fields.set_default("rms_norm_eps", f.get("norm_eps").cloned().unwrap_or(json!(1e-5)));
    fields
}

/// Attention with norms of queries and keys, without biases.
pub(crate) fn attention(model: &Reader<'_>) -> Result<AttentionConfig, Error> {
    let qk_norm = Some(QkNorm::Head(model.rms()));
    Ok(AttentionConfig { qk_norm, bias: false, out_bias: false, ..model.attention()? })
}

/// The gated short convolution.
pub(crate) fn convolution(model: &Reader<'_>, taps: usize) -> Result<MixerConfig, Error> {
    let f = model.f;
    let (taps, bias) = (f.size("conv_L_cache", taps)?, f.flag("conv_bias", false)?);
    Ok(MixerConfig::GatedConv(GatedConvConfig { hidden: model.hidden, taps, bias }))
}

/// A gated feed-forward layer of this width.
pub(crate) fn feed_forward(inner: usize) -> GatedFeedForwardConfig {
    GatedFeedForwardConfig { names: ["w1", "w3", "w2"].map(str::to_owned), ..GatedFeedForwardConfig::silu(inner) }
}

/// A block of a mixer and a feed-forward layer, with norms before, and after them if `sandwich`.
pub(crate) fn block(norm: NormConfig, mixer: MixerConfig, operation: OperationConfig, sandwich: bool) -> BlockConfig {
    let name = if matches!(mixer, MixerConfig::GatedConv(_)) { "conv" } else { "self_attn" };
    let branches = [
        (BranchConfig::mixer(name, mixer).before("operator_norm", norm), "post_operator_norm"),
        (BranchConfig::new("feed_forward", operation).before("ffn_norm", norm), "post_ffn_norm"),
    ];
    let after = |(branch, name): (BranchConfig, &str)| if sandwich { branch.after(name, norm) } else { branch };
    BlockConfig::new(branches.into_iter().map(after).collect())
}

/// The model of these blocks.
pub(crate) fn describe(
    model: &Reader<'_>,
    model_type: &'static str,
    blocks: Vec<BlockConfig>,
) -> Result<Description, Error> {
    let Description { decoder, eos, .. } = model.describe(model_type, blocks)?;
    // Despite its name, this is the last norm.
    let last_norm = Some(NamedNorm::new("embedding_norm", model.rms()));
    Ok(Description::new(model_type, DecoderConfig { last_norm, ..decoder }, eos))
}
