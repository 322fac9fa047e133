//! MiniMax-01: lightning attention, and softmax attention in every eighth layer.

use longreach_nn::mixers::MixerConfig;
use longreach_nn::{DecoderConfig, OperationConfig};
use serde_json::json;

use super::hybrids::set;
use super::keys::Keys;
use super::names::{ATTENTION, around, experts, of_layers, of_part};
use super::{Read, each_branch};
use crate::Error;

const LAYERS: &str = "model.layers";

/// `minimax-01`
pub(super) fn minimax(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = keys.transformer("minimax")?;
    let count = keys.size("expert_count")? as usize;
    // The kinds are not stored.
    let kind = |i: u64| if i.is_multiple_of(8) { "full_attention" } else { "linear_attention" };
    let alpha = json!(keys.number("residual_scale")?.unwrap_or(1.0));
    set(
        &mut fields,
        &[
            ("layer_types", json!((1..=keys.layers()?).map(kind).collect::<Vec<_>>())),
            ("num_local_experts", json!(count)),
            ("num_experts_per_tok", json!(keys.size("expert_used_count")?)),
            ("full_attn_alpha_factor", alpha.clone()),
            ("linear_attn_alpha_factor", alpha.clone()),
            ("mlp_alpha_factor", alpha),
        ],
    );
    let mut rewrites = around(["model.embed_tokens", "model.norm", "lm_head"]);
    rewrites.extend(of_layers(LAYERS, &[("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")]));
    rewrites.extend(of_part(LAYERS, "self_attn", &ATTENTION));
    let lightning =
        [("qkv_proj", "attn_qkv"), ("norm", "attn_norm_2"), ("output_gate", "attn_gate"), ("out_proj", "attn_output")];
    rewrites.extend(of_part(LAYERS, "self_attn", &lightning));
    rewrites.extend(of_part(LAYERS, "block_sparse_moe", &[("gate", "ffn_gate_inp")]));
    let names = [("w1", "ffn_gate_exps"), ("w3", "ffn_up_exps"), ("w2", "ffn_down_exps")];
    rewrites.extend(experts(LAYERS, "block_sparse_moe.experts", count, &names));
    let turned = keys.some("rope.dimension_count")?;
    let width = fields.get("head_dim").and_then(serde_json::Value::as_u64);
    if let (Some(turned), Some(width)) = (turned, width)
        && (turned > width || !turned.is_multiple_of(2))
    {
        return Err(keys.error("rope.dimension_count", format!("{turned} channels of heads of {width}")));
    }
    let adjust = move |decoder: &mut DecoderConfig| {
        each_branch(decoder, |branch| {
            if let OperationConfig::Mixer(MixerConfig::Attention(attention)) = &mut branch.operation
                && let (Some(turned), Some(rotary)) = (turned, &mut attention.rotary)
            {
                rotary.width = (turned as usize).min(attention.head_dim);
            }
        });
    };
    Ok(Read { adjust: Some(Box::new(adjust)), ..Read::new(fields, rewrites) })
}
