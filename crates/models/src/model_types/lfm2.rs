//! `lfm2` and `lfm2_moe`: gated short convolutions, with attention in some layers; `lfm2_moe` with mixtures of experts
//! after the first layers. Liquid AI 2025.

use longreach_nn::mixers::{AttentionConfig, AttentionNames, MixerConfig};
use longreach_nn::{ExpertsConfig, OperationConfig, RouterConfig};

use crate::families::hybrid::{as_many, kinds};
use crate::families::lfm::{LFM, attention, block, convolution, describe, feed_forward, fields};
use crate::families::llama::{Defaults, Reader};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "lfm2", mechanism: "short_conv", paper: "Liquid AI 2025", describe: dense };

pub(crate) const MOE: Architecture =
    Architecture { model_type: "lfm2_moe", mechanism: "short_conv", paper: "Liquid AI 2025", describe: sparse };

fn dense(f: &Fields) -> Result<Description, Error> {
    let fields = fields(f);
    let model = Reader::new(&fields, Defaults { hidden: 2560, inner: 12_288, ..LFM })?;
    let layer = OperationConfig::Gated(feed_forward(inner(&model)?));
    model_of(&model, "lfm2", |_| layer.clone())
}

fn sparse(f: &Fields) -> Result<Description, Error> {
    let fields = fields(f);
    let (f, model) = (&fields, Reader::new(&fields, Defaults { hidden: 2048, inner: 7168, ..LFM })?);
    let dense = OperationConfig::Gated(feed_forward(f.size("intermediate_size", 7168)?));
    let named = if f.given("num_experts") { "num_experts" } else { "num_local_experts" };
    let size = [f.size(named, 32)?, f.size("num_experts_per_tok", 4)?];
    let router = RouterConfig {
        correction: f.flag("use_expert_bias", true)?.then(|| "expert_bias".into()),
        scale: f.number("routed_scaling_factor", 1.0)? as f32,
        ..RouterConfig::sigmoid("gate", f.flag("norm_topk_prob", true)?.then_some(1e-6))
    };
    let experts = ExpertsConfig::new(size, router, feed_forward(f.size("moe_intermediate_size", 1792)?));
    let experts = OperationConfig::Experts(experts);
    let first = f.count("num_dense_layers", 2)?;
    model_of(&model, "lfm2_moe", |i| if i < first { dense.clone() } else { experts.clone() })
}

fn model_of(
    model: &Reader<'_>,
    model_type: &'static str,
    feed_forward: impl Fn(usize) -> OperationConfig,
) -> Result<Description, Error> {
    let f = model.f;
    let attention = MixerConfig::Attention(AttentionConfig {
        rotary: Some(model.rotary("full_attention")?),
        names: AttentionNames {
            out: "out_proj",
            q_norm: "q_layernorm",
            k_norm: "k_layernorm",
            ..AttentionNames::LLAMA
        },
        ..attention(model)?
    });
    let conv = convolution(model, 3)?;
    let attends = match kinds(f, "layer_types", &[("full_attention", true), ("conv", false)])? {
        Some(kinds) => kinds,
        None => {
            let listed = f.ids("full_attn_idxs")?;
            (0..model.layers).map(|i| !f.given("full_attn_idxs") || listed.contains(&(i as u32))).collect()
        }
    };
    as_many(f, "layer_types", &attends, model.layers)?;
    let blocks = attends.into_iter().enumerate().map(|(i, attends)| {
        let mixer = if attends { attention.clone() } else { conv.clone() };
        block(model.rms(), mixer, feed_forward(i), false)
    });
    describe(model, model_type, blocks.collect())
}

/// The width of the feed-forward layers: two thirds of the field, scaled and rounded up, unless that is switched off.
fn inner(model: &Reader<'_>) -> Result<usize, Error> {
    let f = model.f;
    let given =
        f.size(if f.given("block_ff_dim") { "block_ff_dim" } else { "intermediate_size" }, model.defaults.inner)?;
    if !f.flag("block_auto_adjust_ff_dim", true)? {
        return Ok(given);
    }
    let inner = (2 * given / 3) as f64 * f.number("block_ffn_dim_multiplier", 1.0)?;
    let inner = f.scaled("block_ffn_dim_multiplier", inner)?;
    Ok(inner.next_multiple_of(f.size("block_multiple_of", 256)?))
}
