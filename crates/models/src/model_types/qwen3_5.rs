//! `qwen3_5` and `qwen3_5_moe`, the text models and those of models of text and images: the gated delta rule with gated
//! attention in every fourth layer. Qwen Team 2026.

use longreach_nn::OperationConfig;
use serde_json::json;

use crate::families::composite::text_config;
use crate::families::delta::{Projected, qwen, qwen_experts};
use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields};

const fn architecture(model_type: &'static str, describe: fn(&Fields) -> Result<Description, Error>) -> Architecture {
    Architecture { model_type, mechanism: "gated_delta", paper: "Qwen Team 2026", describe }
}

pub(crate) const TEXT: Architecture = architecture("qwen3_5_text", |f| dense(f, "qwen3_5_text"));
pub(crate) const ARCHITECTURE: Architecture = architecture("qwen3_5", |f| dense(&inner(f)?, "qwen3_5"));
pub(crate) const MOE_TEXT: Architecture = architecture("qwen3_5_moe_text", |f| sparse(f, "qwen3_5_moe_text"));
pub(crate) const MOE: Architecture = architecture("qwen3_5_moe", |f| sparse(&inner(f)?, "qwen3_5_moe"));

const DEFAULTS: Defaults = Defaults {
    vocabulary: 248_320,
    hidden: 4096,
    layers: 32,
    heads: 16,
    groups: Some(4),
    head_dim: Some(256),
    inner: 12_288,
    longest: 32_768,
    eos: 248_044,
    partial: true,
    ..LLAMA
};

/// The text model of a composite one. Whether its embeddings are tied stands outside, whatever it says itself.
fn inner(f: &Fields) -> Result<Fields, Error> {
    let mut text = text_config(f)?;
    text.set("tie_word_embeddings", json!(f.flag("tie_word_embeddings", false)?));
    Ok(text)
}

/// The fields, with the part of each head that is rotated.
fn rotated(f: &Fields) -> Fields {
    let mut fields = f.clone();
    fields.set_default("partial_rotary_factor", json!(0.25));
    fields
}

fn dense(f: &Fields, model_type: &'static str) -> Result<Description, Error> {
    let fields = rotated(f);
    let model = Reader::new(&fields, DEFAULTS)?;
    let dense = OperationConfig::Gated(model.feed_forward()?);
    qwen(&model, model_type, Projected::ByKind, |_| Ok(dense.clone()))
}

fn sparse(f: &Fields, model_type: &'static str) -> Result<Description, Error> {
    let fields = rotated(f);
    let model = Reader::new(&fields, Defaults { hidden: 2048, layers: 40, groups: Some(2), ..DEFAULTS })?;
    let experts = qwen_experts(&model, [256, 8], true)?;
    qwen(&model, model_type, Projected::ByKind, |_| Ok(experts.clone()))
}
