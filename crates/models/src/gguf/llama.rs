//! Llama and its relatives.

use serde_json::{Value, json};

use super::Read;
use super::keys::Keys;
use super::names::{ATTENTION, EXPERTS, FEED_FORWARD, around, experts, of_layers, of_part};
use crate::{Error, Rewrite};

const LAYERS: &str = "model.layers";

/// The tensors of Llama: embeddings, norms before attention and feed-forward layers, and these.
fn tensors() -> Vec<Rewrite> {
    let norms = [("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")];
    [
        around(["model.embed_tokens", "model.norm", "lm_head"]),
        of_layers(LAYERS, &norms),
        of_part(LAYERS, "self_attn", &ATTENTION),
        of_part(LAYERS, "mlp", &FEED_FORWARD),
    ]
    .concat()
}

/// `llama`: Llama, Mistral, and Mixtral, whose rows of queries and keys are in pairs.
pub(super) fn llama(keys: &Keys<'_>) -> Result<Read, Error> {
    let count = keys.some("expert_count")?.unwrap_or(0) as usize;
    let mut fields = keys.transformer(if count > 0 { "mixtral" } else { "llama" })?;
    let mut rewrites = tensors();
    let biased = |name: &str| keys.shape(&format!("blk.0.{name}.bias")).is_some();
    fields.insert("attention_bias".into(), json!(biased("attn_q")));
    fields.insert("mlp_bias".into(), json!(biased("ffn_down")));
    if let Some(window) = keys.some("attention.sliding_window")?.filter(|window| *window > 0) {
        // llama.cpp does not know windows of this architecture, and neither writes nor reads the key.
        if count == 0 {
            fields.insert("model_type".into(), json!("mistral"));
        }
        fields.insert("sliding_window".into(), json!(window));
    }
    if count > 0 {
        fields.insert("num_local_experts".into(), json!(count));
        fields.insert("num_experts_per_tok".into(), json!(keys.size("expert_used_count")?));
        let names = [("w1", "ffn_gate_exps"), ("w3", "ffn_up_exps"), ("w2", "ffn_down_exps")];
        rewrites.extend(of_part(LAYERS, "block_sparse_moe", &[("gate", "ffn_gate_inp")]));
        rewrites.extend(experts(LAYERS, "block_sparse_moe.experts", count, &names));
    }
    Ok(Read { pairs: true, ..Read::new(fields, rewrites) })
}

/// An architecture that differs from Llama in what its model type says.
pub(super) fn plain(keys: &Keys<'_>, model_type: &str) -> Result<Read, Error> {
    let mut fields = keys.transformer(model_type)?;
    fields.insert("attention_bias".into(), json!(keys.shape("blk.0.attn_output.bias").is_some()));
    Ok(Read::new(fields, tensors()))
}

/// `minicpm`: MiniCPM 1, 2 and 4, whose rows of queries and keys are in pairs. Files do not say whether attention is
/// sparse: it is dense. The factors that older files leave out are those of MiniCPM 1.
pub(super) fn minicpm(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = keys.transformer("minicpm")?;
    let (hidden, layers) = (keys.size("embedding_length")? as f64, keys.layers()? as f64);
    if let Some(by) = keys.number("embedding_scale")? {
        fields.insert("scale_emb".into(), json!(by));
    }
    if let Some(by) = keys.number("residual_scale")? {
        fields.insert("scale_depth".into(), json!(by * layers.sqrt()));
    }
    if let Some(by) = keys.number("logit_scale")? {
        if by <= 0.0 {
            return Err(keys.error("logit_scale", format!("want a number above 0, found {by}")));
        }
        fields.insert("dim_model_base".into(), json!(hidden / by));
    }
    fields.insert("attention_bias".into(), json!(keys.shape("blk.0.attn_q.bias").is_some()));
    Ok(Read { pairs: true, ..Read::new(fields, tensors()) })
}

/// `qwen3moe`
pub(super) fn qwen3moe(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = keys.transformer("qwen3_moe")?;
    let count = keys.size("expert_count")? as usize;
    for (name, value) in [
        ("num_experts", json!(count)),
        ("num_experts_per_tok", json!(keys.size("expert_used_count")?)),
        ("moe_intermediate_size", json!(keys.size("expert_feed_forward_length")?)),
        ("norm_topk_prob", json!(true)),
        ("mlp_only_layers", json!(without_experts(keys)?)),
    ] {
        fields.insert(name.into(), value);
    }
    let mut rewrites = tensors();
    rewrites.extend(of_part(LAYERS, "mlp", &[("gate", "ffn_gate_inp")]));
    rewrites.extend(experts(LAYERS, "mlp.experts", count, &EXPERTS));
    Ok(Read::new(fields, rewrites))
}

/// The layers that have no router.
pub(super) fn without_experts(keys: &Keys<'_>) -> Result<Vec<u64>, Error> {
    let has = |layer: &u64| keys.shape(&format!("blk.{layer}.ffn_gate_inp.weight")).is_none();
    Ok((0..keys.layers()?).filter(has).collect())
}

/// `phi3`: projections joined as in its checkpoints, and rotary positions of a part of each head.
pub(super) fn phi3(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = keys.transformer("phi3")?;
    let heads = fields["num_attention_heads"].as_u64().unwrap_or(1);
    let width = keys.size("embedding_length")? / heads.max(1);
    if let Some(turned) = keys.some("rope.dimension_count")? {
        fields.insert("partial_rotary_factor".into(), json!(turned as f64 / width as f64));
    }
    let original = keys.some("rope.scaling.original_context_length")?;
    fields.insert("original_max_position_embeddings".into(), original.map_or(Value::Null, Value::from));
    let window = keys.some("attention.sliding_window")?;
    fields.insert("sliding_window".into(), window.filter(|n| *n > 0).map_or(Value::Null, Value::from));
    let mut rewrites = tensors();
    rewrites.extend(of_part(LAYERS, "self_attn", &[("qkv_proj", "attn_qkv")]));
    rewrites.extend(of_part(LAYERS, "mlp", &[("gate_up_proj", "ffn_up")]));
    Ok(Read::new(fields, rewrites))
}

/// `smollm3`: every fourth layer has no positions.
pub(super) fn smollm3(keys: &Keys<'_>) -> Result<Read, Error> {
    let read = llama(keys)?;
    let mut fields = read.fields;
    fields.insert("model_type".into(), json!("smollm3"));
    fields.insert("no_rope_layer_interval".into(), json!(4));
    Ok(Read { fields, ..read })
}

/// `olmo2`: `olmo2`, and `olmo3`, which has windows. Norms after each operation only.
pub(super) fn olmo2(keys: &Keys<'_>) -> Result<Read, Error> {
    let window = keys.some("attention.sliding_window")?;
    let mut fields = keys.transformer(if window.is_some() { "olmo3" } else { "olmo2" })?;
    if let Some(window) = window {
        let layers = keys.layers()?;
        let slides = keys.marks("attention.sliding_window_pattern", layers, |layer, n| (layer + 1) % n != 0)?;
        let slides = slides.unwrap_or_else(|| (1..=layers).map(|i| i % 4 != 0).collect());
        let kind = |slides: bool| if slides { "sliding_attention" } else { "full_attention" };
        fields.insert("sliding_window".into(), json!(window));
        fields.insert("layer_types".into(), json!(slides.into_iter().map(kind).collect::<Vec<_>>()));
        // The scaling of positions is that of the full layers.
        let full = fields["rope_parameters"].clone();
        let near = keys.number("rope.freq_base_swa")?.map_or(full["rope_theta"].clone(), Value::from);
        let sliding = json!({ "rope_type": "default", "rope_theta": near });
        fields.insert("rope_parameters".into(), json!({ "full_attention": full, "sliding_attention": sliding }));
    }
    let norms = [("post_attention_layernorm", "post_attention_norm"), ("post_feedforward_layernorm", "post_ffw_norm")];
    fields.insert("attention_bias".into(), json!(keys.shape("blk.0.attn_output.bias").is_some()));
    let mut rewrites = of_layers(LAYERS, &norms);
    rewrites.extend(tensors());
    Ok(Read::new(fields, rewrites))
}

/// `gpt-oss`
pub(super) fn gpt_oss(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = keys.transformer("gpt_oss")?;
    let count = keys.size("expert_count")? as usize;
    fields.insert("num_local_experts".into(), json!(count));
    fields.insert("num_experts_per_tok".into(), json!(keys.size("expert_used_count")?));
    fields.insert("intermediate_size".into(), json!(keys.size("expert_feed_forward_length")?));
    fields.insert("sliding_window".into(), json!(keys.size("attention.sliding_window")?));
    fields.insert("attention_bias".into(), json!(keys.shape("blk.0.attn_q.bias").is_some()));
    if let Some(Value::Object(rope)) = fields.get_mut("rope_parameters") {
        // The file does not say so; the model's positions are computed without rounding the bounds.
        rope.insert("truncate".into(), json!(false));
    }
    let mut rewrites = of_layers(LAYERS, &[("post_attention_layernorm", "post_attention_norm")]);
    rewrites.extend(tensors());
    rewrites.push(Rewrite::new(format!("{LAYERS}.*.self_attn.sinks"), "blk.*.attn_sinks.weight", []));
    rewrites.extend(of_part(LAYERS, "mlp", &[("router", "ffn_gate_inp")]));
    rewrites.extend(experts(LAYERS, "mlp.experts", count, &EXPERTS));
    Ok(Read::new(fields, rewrites))
}
