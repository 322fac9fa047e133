//! `recurrent_gemma`: Griffin, real-gated linear recurrences with attention to a window in every third layer. De et al.
//! 2024; Botev et al. 2024.

use half::bf16;
use longreach_nn::mixers::{AttentionConfig, MixerConfig, Reach, RgLruConfig};
use longreach_nn::{
    Activation, Bias, BlockConfig, BranchConfig, DecoderConfig, GatedFeedForwardConfig, NamedNorm, NormConfig,
    OperationConfig,
};
use serde_json::{Value, json};

use crate::description::activation;
use crate::families::fla::divided;
use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "recurrent_gemma", mechanism: "rg_lru", paper: "Botev et al. 2024", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let defaults = Defaults {
        vocabulary: 256_000,
        hidden: 2560,
        layers: 26,
        heads: 10,
        inner: 7680,
        longest: 8192,
        tied: true,
        eos: 1,
        partial: true,
        ..LLAMA
    };
    let mut fields = f.clone();
    fields.set_default("partial_rotary_factor", json!(0.5));
    let (f, model) = (&fields, Reader::new(&fields, defaults)?);
    let norm = NormConfig::RmsPlusOne(model.norm_eps);
    let act = activation(f, "hidden_activation", Activation::GeluTanh)?;
    let heads = f.size("num_attention_heads", defaults.heads)?;
    let inner = f.some_size("lru_width")?.unwrap_or(model.hidden);
    divided(f, "lru_width", inner, heads)?;
    let recurrent = MixerConfig::RgLru(RgLruConfig {
        hidden: model.hidden,
        inner,
        blocks: heads,
        conv: f.size("conv1d_width", 4)?,
        activation: act,
        whole_first: true,
    });
    let window = f.size("attention_window_size", 2048)?;
    let attention = MixerConfig::Attention(AttentionConfig {
        rotary: Some(model.rotary("sliding_attention")?),
        reach: Reach::Window(window),
        out_bias: true,
        ..model.attention()?
    });
    let feed_forward = OperationConfig::Gated(GatedFeedForwardConfig {
        activation: act,
        bias: Bias::Yes,
        ..GatedFeedForwardConfig::silu((f.size("intermediate_size", defaults.inner)? / 2).max(1))
    });
    let block = |attends: &bool| {
        let mixer = if *attends { attention.clone() } else { recurrent.clone() };
        BlockConfig::new(vec![
            BranchConfig::mixer("temporal_block", mixer).before("temporal_pre_norm", norm),
            BranchConfig::new("mlp_block", feed_forward.clone()).before("channel_pre_norm", norm),
        ])
    };
    let blocks = pattern(f)?.iter().cycle().take(model.layers).map(block).collect();
    let Description { decoder, eos, .. } = model.describe("recurrent_gemma", blocks)?;
    let cap = f.number("logits_soft_cap", 30.0)?;
    if cap <= 0.0 {
        return Err(f.error(format!("field `logits_soft_cap`: want a number above 0, found {cap}")));
    }
    let decoder = DecoderConfig {
        last_norm: Some(NamedNorm::new("final_norm", norm)),
        // Rounded, whatever the precision of the weights.
        embedding_scale: bf16::from_f32((model.hidden as f32).sqrt()).to_f32(),
        logits_cap: Some(cap as f32),
        ..decoder
    };
    Ok(Description::new("recurrent_gemma", decoder, eos))
}

/// Which layers attend, from a list that is repeated.
fn pattern(f: &Fields) -> Result<Vec<bool>, Error> {
    let Some(found) = f.get("block_types") else { return Ok(vec![false, false, true]) };
    let kind = |kind: &Value| match kind.as_str() {
        Some("recurrent") => Some(false),
        Some("attention") => Some(true),
        _ => None,
    };
    let kinds: Option<Vec<bool>> = found.as_array().and_then(|list| list.iter().map(kind).collect());
    kinds
        .filter(|kinds| !kinds.is_empty())
        .ok_or_else(|| f.error(format!("field `block_types`: want a list of recurrent and attention, found {found}")))
}
