//! Checkpoints of the package mamba-ssm, in which the authors published all Mamba and Mamba-2 models: their
//! `config.json` differs, and one tensor has another name.

use serde_json::{Map, Value, json};

use super::{mamba, mamba2};
use crate::{Checkpoint, Description, Error, Fields};

/// Whether a `config.json` without a `model_type` is of mamba-ssm.
pub(crate) fn is(fields: &Fields) -> bool {
    fields.get("model_type").is_none() && fields.given("d_model") && fields.given("n_layer") && fields.given("ssm_cfg")
}

/// Sets sizes that a `config.json` of mamba-ssm leaves open from the checkpoint: the vocabulary, which that package
/// pads to a multiple of `pad_vocab_size_multiple` but other writers of the format do not, and for Mamba-1 the state
/// size and the rank of the step size.
pub(crate) fn sizes_of(fields: &mut Fields, checkpoint: &Checkpoint) {
    if !is(fields) {
        return;
    }
    let size = |name: &str, axis: usize| checkpoint.shape(name).and_then(|shape| shape.get(axis).copied());
    if let Some(rows) = size("backbone.embedding.weight", 0)
        && fields.size("vocab_size", rows).is_ok_and(|said| said <= rows)
    {
        fields.set("vocab_size", json!(rows));
        fields.set("pad_vocab_size_multiple", json!(1));
    }
    let Some(mut ssm) = fields.get("ssm_cfg").and_then(Value::as_object).cloned() else { return };
    if ssm.get("layer").is_none_or(|layer| layer == "Mamba1") {
        for (name, tensor) in [("d_state", "A_log"), ("dt_rank", "dt_proj.weight")] {
            if let Some(n) = size(&format!("backbone.layers.0.mixer.{tensor}"), 1) {
                ssm.entry(name).or_insert(json!(n));
            }
        }
        fields.set("ssm_cfg", Value::Object(ssm));
    }
}

/// Describes the model, with the same blocks as transformers.
pub(crate) fn describe(fields: &Fields) -> Result<Description, Error> {
    let ssm = fields.objects("ssm_cfg")?.into_iter().next().unwrap_or_else(|| fields.within(Map::new()));
    for (name, why) in [("attn_layer_idx", "attention layers"), ("attn_cfg", "attention layers")] {
        let empty = |v: &Value| v.as_array().is_some_and(Vec::is_empty) || v.as_object().is_some_and(Map::is_empty);
        if fields.get(name).is_some_and(|v| !empty(v)) {
            return Err(fields.error(format!("field `{name}`: {why} of mamba-ssm are not supported")));
        }
    }
    if fields.count("d_intermediate", 0)? > 0 {
        return Err(fields.error("field `d_intermediate`: feed-forward layers of mamba-ssm are not supported, want 0"));
    }
    if !fields.flag("rms_norm", true)? {
        return Err(
            fields.error("field `rms_norm`: checkpoints of mamba-ssm with LayerNorm are not supported, want true")
        );
    }
    let layer = ssm.text("layer")?.unwrap_or("Mamba1").to_owned();
    let second = match &layer[..] {
        "Mamba1" => false,
        "Mamba2" => true,
        other => {
            return Err(ssm.error(format!("field `ssm_cfg.layer`: want \"Mamba1\" or \"Mamba2\", found \"{other}\"")));
        }
    };
    let known: &[&str] = if second { &MAMBA2 } else { &MAMBA1 };
    if let Some(name) = ssm.names().find(|name| !known.contains(name)) {
        return Err(ssm.error(format!("field `ssm_cfg.{name}` is not supported; supported are {}", known.join(", "))));
    }
    let hidden = fields.size("d_model", 2560)?;
    let multiple = fields.size("pad_vocab_size_multiple", 8)?;
    let vocabulary = fields.size("vocab_size", 50277)?.next_multiple_of(multiple);
    let mut map = Map::new();
    let mut set = |name: &str, value: Value| map.insert(name.to_owned(), value);
    set("vocab_size", json!(vocabulary));
    set("hidden_size", json!(hidden));
    set("num_hidden_layers", json!(fields.layers("n_layer", 64)?));
    set("tie_word_embeddings", json!(fields.flag("tie_embeddings", true)?));
    set("use_bias", json!(ssm.flag("bias", false)?));
    set("use_conv_bias", json!(ssm.flag("conv_bias", true)?));
    set("conv_kernel", json!(ssm.size("d_conv", 4)?));
    set("time_step_min", json!(ssm.number("dt_min", 1e-3)?));
    set("time_step_max", json!(ssm.number("dt_max", 0.1)?));
    // The file names no end-of-text token; that of the tokenizer these models were trained with is 0.
    set("eos_token_id", json!(0));
    let expand = ssm.size("expand", 2)?;
    if second {
        for (name, want) in [("rmsnorm", true), ("norm_before_gate", false), ("D_has_hdim", false)] {
            if ssm.flag(name, want)? != want {
                return Err(ssm.error(format!("field `ssm_cfg.{name}`: want {want}")));
            }
        }
        let inner = expand.saturating_mul(hidden);
        if ssm.size("d_ssm", inner)? != inner {
            return Err(ssm.error(format!("field `ssm_cfg.d_ssm`: want {inner}, all channels")));
        }
        let (head, groups) = (ssm.size("headdim", 64)?, ssm.size("ngroups", 1)?);
        if inner % head != 0 {
            return Err(ssm.error(format!("field `ssm_cfg.headdim`: {head} does not divide the {inner} channels")));
        }
        if (inner / head) % groups != 0 {
            let heads = inner / head;
            return Err(ssm.error(format!("field `ssm_cfg.ngroups`: {groups} does not divide the {heads} heads")));
        }
        set("expand", json!(expand));
        set("num_heads", json!(inner / head));
        set("head_dim", json!(head));
        set("n_groups", json!(groups));
        set("state_size", json!(ssm.size("d_state", 128)?));
        if let Some(limit) = ssm.get("dt_limit") {
            set("time_step_limit", limit.clone());
        }
    } else {
        set("intermediate_size", json!(expand.saturating_mul(hidden)));
        set("state_size", json!(ssm.size("d_state", 16)?));
        if let Some(rank) = ssm.get("dt_rank") {
            set("time_step_rank", rank.clone());
        }
    }
    let translated = fields.within(map);
    let describe = if second { mamba2::ARCHITECTURE.describe } else { mamba::ARCHITECTURE.describe };
    let mut description = describe(&translated)?;
    description.decoder.names.embedding = "embedding".into();
    Ok(description)
}

/// The known settings of a block; those of initialisation and of the choice of kernels do not affect results.
const MAMBA1: [&str; 15] = [
    "layer",
    "d_state",
    "d_conv",
    "expand",
    "dt_rank",
    "dt_min",
    "dt_max",
    "dt_init",
    "dt_scale",
    "dt_init_floor",
    "conv_bias",
    "bias",
    "use_fast_path",
    "device",
    "dtype",
];
const MAMBA2: [&str; 23] = [
    "layer",
    "d_state",
    "d_conv",
    "conv_init",
    "expand",
    "headdim",
    "d_ssm",
    "ngroups",
    "A_init_range",
    "D_has_hdim",
    "rmsnorm",
    "norm_before_gate",
    "dt_min",
    "dt_max",
    "dt_init_floor",
    "dt_limit",
    "bias",
    "conv_bias",
    "chunk_size",
    "use_mem_eff_path",
    "device",
    "dtype",
    "sequence_parallel",
];
