//! Gemma 4: heads of two widths, keys and values that layers share, embeddings for each layer, mixtures of experts.

use serde_json::{Map, Value, json};

use super::Read;
use super::gemma::{NORMS, kinds};
use super::hybrids::{has, set};
use super::keys::Keys;
use super::names::{ATTENTION, EXPERTS, FEED_FORWARD, around, both, experts, of_layers, of_part};
use crate::{Error, Rewrite, Step};

const LAYERS: &str = "model.layers";

/// `gemma4`
pub(super) fn gemma4(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = keys.transformer("gemma4_text")?;
    let layers = keys.layers()?;
    let shared = keys.some("attention.shared_kv_layers")?.unwrap_or(0);
    let kinds = kinds(keys, |layer| (layer + 1) % 6 != 0)?;
    let full: Vec<u64> = (0..layers).filter(|i| kinds[*i as usize] == "full_attention").collect();
    let widths = keys.of_layers("feed_forward_length", layers)?;
    let inner = widths.as_ref().and_then(|list| list.first().copied());
    let wide = widths.is_some_and(|list| list.last() != list.first());
    let count = keys.some("expert_count")?.unwrap_or(0) as usize;
    let rows = |name: &str| keys.shape(name).and_then(|shape| shape.first().copied());
    let near = json!({
        "rope_type": "default",
        "rope_theta": keys.number("rope.freq_base_swa")?.unwrap_or(10_000.0),
    });
    let positions = json!({ "full_attention": fields["rope_parameters"], "sliding_attention": near });
    heads(keys, &mut fields, &kinds, &full)?;
    let without_values = |i: &u64| {
        let shape = |name: &str| keys.shape(&format!("blk.{i}.{name}.weight"));
        shape("attn_k").is_some() && shape("attn_v").is_none()
    };
    set(
        &mut fields,
        &[
            ("layer_types", kinds.clone()),
            ("rope_parameters", positions),
            ("intermediate_size", json!(inner)),
            ("use_double_wide_mlp", json!(wide)),
            ("num_kv_shared_layers", json!(shared)),
            ("attention_k_eq_v", json!(full.iter().any(without_values))),
            ("sliding_window", json!(keys.some("attention.sliding_window")?)),
            ("hidden_size_per_layer_input", json!(keys.some("embedding_length_per_layer_input")?.unwrap_or(0))),
            ("vocab_size_per_layer_input", json!(rows("per_layer_token_embd.weight"))),
            ("final_logit_softcapping", json!(keys.number("final_logit_softcapping")?)),
            ("enable_moe_block", json!(count > 0)),
        ],
    );
    if count > 0 {
        set(
            &mut fields,
            &[
                ("num_experts", json!(count)),
                ("top_k_experts", json!(keys.size("expert_used_count")?)),
                ("moe_intermediate_size", json!(keys.size("expert_feed_forward_length")?)),
            ],
        );
    }
    let mut rewrites = tensors();
    rewrites.extend(mixture(keys, count)?);
    // Those of layers that use the keys of others.
    let first = layers.saturating_sub(shared);
    let unread = (first..layers)
        .flat_map(|i| ["attn_k", "attn_v", "attn_k_norm"].map(|name| format!("blk.{i}.{name}.weight")))
        .collect();
    Ok(Read { unread, ..Read::new(fields, rewrites) })
}

/// The widths of heads and the numbers of KV heads of both kinds of layers.
fn heads(keys: &Keys<'_>, fields: &mut Map<String, Value>, kinds: &Value, full: &[u64]) -> Result<(), Error> {
    let groups = keys.of_layers("attention.head_count_kv", keys.layers()?)?;
    let of_kind = |sliding: bool| {
        let is = |kind: &Value| (kind == "sliding_attention") == sliding;
        let i = kinds.as_array()?.iter().position(is)?;
        groups.as_ref()?.get(i).copied()
    };
    let (near, far) = (of_kind(true), of_kind(false));
    let width = keys.size("attention.key_length")?;
    let mut of_full = json!({ "head_dim": width });
    if let Some(groups) = far {
        of_full["num_key_value_heads"] = json!(groups);
    }
    let of_layers: Map<String, Value> = full.iter().map(|i| (i.to_string(), of_full.clone())).collect();
    fields.insert("head_dim".into(), json!(keys.some("attention.key_length_swa")?.unwrap_or(width)));
    if let Some(groups) = near.or(far) {
        fields.insert("num_key_value_heads".into(), json!(groups));
    }
    fields.insert("per_layer_config".into(), Value::Object(of_layers));
    Ok(())
}

fn tensors() -> Vec<Rewrite> {
    let more = [
        ("pre_feedforward_layernorm_2", "pre_ffw_norm_2"),
        ("post_feedforward_layernorm_1", "post_ffw_norm_1"),
        ("post_feedforward_layernorm_2", "post_ffw_norm_2"),
        ("per_layer_input_gate", "inp_gate"),
        ("per_layer_projection", "proj"),
        ("post_per_layer_input_norm", "post_norm"),
    ];
    let mut rewrites = around(["model.embed_tokens", "model.norm", "lm_head"]);
    for (ours, file) in [
        ("embed_tokens_per_layer", "per_layer_token_embd"),
        ("per_layer_model_projection", "per_layer_model_proj"),
        ("per_layer_projection_norm", "per_layer_proj_norm"),
    ] {
        rewrites.extend(both(&format!("model.{ours}"), file));
    }
    rewrites.push(Rewrite::new(format!("{LAYERS}.*.layer_scalar"), "blk.*.layer_output_scale.weight", []));
    rewrites.extend(of_layers(LAYERS, &NORMS));
    rewrites.extend(of_layers(LAYERS, &more));
    rewrites.extend(of_part(LAYERS, "self_attn", &ATTENTION));
    rewrites.extend(of_part(LAYERS, "mlp", &FEED_FORWARD));
    rewrites
}

/// The tensors of the experts, of which gates and up projections may be joined.
fn mixture(keys: &Keys<'_>, count: usize) -> Result<Vec<Rewrite>, Error> {
    let ours = |name: &str| format!("{LAYERS}.*.{name}");
    let mut rewrites = of_part(LAYERS, "router", &[("proj", "ffn_gate_inp")]);
    rewrites.push(Rewrite::new(ours("router.scale"), "blk.*.ffn_gate_inp.scale", []));
    rewrites.push(Rewrite::new(ours("router.per_expert_scale"), "blk.*.ffn_down_exps.scale", []));
    if has(keys, "ffn_gate_up_exps.weight")? {
        let inner = keys.size("expert_feed_forward_length")? as usize;
        for (name, rows) in [("gate_proj", 0..inner), ("up_proj", inner..2 * inner)] {
            let steps = [Step::Nth(count), Step::Rows(rows, 2 * inner)];
            let ours = ours(&format!("experts.*.{name}.weight"));
            rewrites.push(Rewrite::new(ours, "blk.*.ffn_gate_up_exps.weight", steps));
        }
    }
    rewrites.extend(experts(LAYERS, "experts", count, &EXPERTS));
    Ok(rewrites)
}
