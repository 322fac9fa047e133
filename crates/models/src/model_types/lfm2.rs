//! `lfm2`: gated short convolutions, with attention in some layers. Liquid AI 2025.

use longreach_nn::mixers::{AttentionConfig, AttentionNames, GatedConvConfig, MixerConfig, QkNorm};
use longreach_nn::{
    BlockConfig, BranchConfig, DecoderConfig, GatedFeedForwardConfig, NamedNorm, NormConfig, OperationConfig,
};

use crate::families::hybrid::{as_many, kinds};
use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "lfm2", mechanism: "short_conv", paper: "Liquid AI 2025", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let defaults = Defaults {
        vocabulary: 65_536,
        hidden: 2560,
        groups: Some(8),
        inner: 12_288,
        theta: 1e6,
        longest: 128_000,
        tied: true,
        ..LLAMA
    };
    let mut fields = f.clone();
    if let Some(tied) = f.get("tie_embedding") {
        fields.set("tie_word_embeddings", tied.clone());
    }
    let (f, model) = (&fields, Reader::new(&fields, defaults)?);
    let norm = NormConfig::Rms(f.number("norm_eps", 1e-5)?);
    let attention = MixerConfig::Attention(AttentionConfig {
        rotary: Some(model.rotary("full_attention")?),
        qk_norm: Some(QkNorm::Head(norm)),
        bias: false,
        out_bias: false,
        names: AttentionNames {
            out: "out_proj",
            q_norm: "q_layernorm",
            k_norm: "k_layernorm",
            ..AttentionNames::LLAMA
        },
        ..model.attention()?
    });
    let conv = MixerConfig::GatedConv(GatedConvConfig {
        hidden: model.hidden,
        taps: f.size("conv_L_cache", 3)?,
        bias: f.flag("conv_bias", false)?,
    });
    let names = ["w1", "w3", "w2"].map(str::to_owned);
    let feed_forward =
        OperationConfig::Gated(GatedFeedForwardConfig { names, ..GatedFeedForwardConfig::silu(inner(f, &model)?) });
    let attends = match kinds(f, "layer_types", &[("full_attention", true), ("conv", false)])? {
        Some(kinds) => kinds,
        None => {
            let listed = f.ids("full_attn_idxs")?;
            (0..model.layers).map(|i| !f.given("full_attn_idxs") || listed.contains(&(i as u32))).collect()
        }
    };
    as_many(f, "layer_types", &attends, model.layers)?;
    let block = |attends: bool| {
        let mixer = match attends {
            true => BranchConfig::mixer("self_attn", attention.clone()),
            false => BranchConfig::mixer("conv", conv.clone()),
        };
        BlockConfig::new(vec![
            mixer.before("operator_norm", norm),
            BranchConfig::new("feed_forward", feed_forward.clone()).before("ffn_norm", norm),
        ])
    };
    let Description { decoder, eos, .. } = model.describe("lfm2", attends.into_iter().map(block).collect())?;
    // Despite its name, this is the last norm.
    let last_norm = Some(NamedNorm::new("embedding_norm", norm));
    Ok(Description { model_type: "lfm2", decoder: DecoderConfig { last_norm, ..decoder }, eos })
}

/// The width of the feed-forward layers: two thirds of the field, scaled and rounded up, unless that is switched off.
fn inner(f: &Fields, model: &Reader<'_>) -> Result<usize, Error> {
    let given =
        f.size(if f.given("block_ff_dim") { "block_ff_dim" } else { "intermediate_size" }, model.defaults.inner)?;
    if !f.flag("block_auto_adjust_ff_dim", true)? {
        return Ok(given);
    }
    let inner = (2 * given / 3) as f64 * f.number("block_ffn_dim_multiplier", 1.0)?;
    let inner = f.scaled("block_ffn_dim_multiplier", inner)?;
    Ok(inner.next_multiple_of(f.size("block_multiple_of", 256)?))
}
