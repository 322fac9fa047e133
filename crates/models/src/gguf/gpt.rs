//! GPT-2 and GPT-NeoX, whose checkpoints store queries, keys and values in other orders than GGUF files.

use longreach_nn::mixers::{Fused, MixerConfig};
use longreach_nn::{DecoderConfig, Layout, OperationConfig};
use serde_json::{Map, Value, json};

use super::keys::Keys;
use super::names::{around, both, of_layers};
use super::{Read, each_branch};
use crate::Error;

/// The fields of both: sizes, and the ε of layer norms.
fn fields(keys: &Keys<'_>, model_type: &str) -> Result<Map<String, Value>, Error> {
    let mut fields = keys.transformer(model_type)?;
    let eps = keys.number("attention.layer_norm_epsilon")?.unwrap_or(1e-5);
    // What the metadata say of the width does not hold for all models.
    let inner = keys.shape("blk.0.ffn_up.weight").and_then(|shape| shape.first().copied());
    let bias = keys.shape("blk.0.attn_qkv.bias").is_some();
    for (name, value) in [
        ("layer_norm_epsilon", json!(eps)),
        ("layer_norm_eps", json!(eps)),
        ("n_inner", inner.map_or(Value::Null, Value::from)),
        ("attention_bias", json!(bias)),
    ] {
        fields.insert(name.into(), value);
    }
    Ok(fields)
}

/// Queries, keys and values as three matrices one behind another, and all matrices as `[out, in]`.
fn plain(decoder: &mut DecoderConfig) {
    each_branch(decoder, |branch| match &mut branch.operation {
        OperationConfig::Mixer(MixerConfig::Attention(attention)) => {
            attention.fused = Fused::Parts;
            attention.layout = Layout::Same;
        }
        OperationConfig::FeedForward(layer) => layer.layout = Layout::Same,
        _ => {}
    });
}

/// `gpt2`
pub(super) fn gpt2(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = fields(keys, "gpt2")?;
    if let Some(rows) = keys.shape("position_embd.weight").and_then(|shape| shape.first()) {
        fields.insert("n_positions".into(), json!(rows));
    }
    let mut rewrites = around(["transformer.wte", "transformer.ln_f", "lm_head"]);
    rewrites.extend(both("transformer.wpe", "position_embd"));
    let names = [
        ("ln_1", "attn_norm"),
        ("attn.c_attn", "attn_qkv"),
        ("attn.c_proj", "attn_output"),
        ("ln_2", "ffn_norm"),
        ("mlp.c_fc", "ffn_up"),
        ("mlp.c_proj", "ffn_down"),
    ];
    rewrites.extend(of_layers("transformer.h", &names));
    Ok(Read { adjust: Some(Box::new(plain)), ..Read::new(fields, rewrites) })
}

/// `gptneox`
pub(super) fn gptneox(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = fields(keys, "gpt_neox")?;
    let width = keys.size("embedding_length")? / fields["num_attention_heads"].as_u64().unwrap_or(1).max(1);
    if let Some(turned) = keys.some("rope.dimension_count")? {
        fields.insert("partial_rotary_factor".into(), json!(turned as f64 / width.max(1) as f64));
    }
    let parallel = keys.flag("use_parallel_residual")?.unwrap_or(true);
    fields.insert("use_parallel_residual".into(), json!(parallel));
    let mut rewrites = around(["gpt_neox.embed_in", "gpt_neox.final_layer_norm", "embed_out"]);
    let names = [
        ("input_layernorm", "attn_norm"),
        ("attention.query_key_value", "attn_qkv"),
        ("attention.dense", "attn_output"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.dense_h_to_4h", "ffn_up"),
        ("mlp.dense_4h_to_h", "ffn_down"),
    ];
    rewrites.extend(of_layers("gpt_neox.layers", &names));
    Ok(Read { adjust: Some(Box::new(plain)), ..Read::new(fields, rewrites) })
}
