//! Kimi Linear: Kimi delta attention, and latent attention in layers with KV heads.

use serde_json::json;

use super::hybrids::{attends, set};
use super::keys::Keys;
use super::names::{ATTENTION, FEED_FORWARD, around, both, experts, of_layers, of_part};
use super::{Joined, Read};
use crate::{Error, Rewrite, Step, Values};

const LAYERS: &str = "model.layers";

/// `kimi-linear`
pub(super) fn kimi_linear(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = keys.transformer("kimi_linear")?;
    let heads = fields["num_attention_heads"].clone();
    let kind = |attends: bool| if attends { "full_attention" } else { "linear_attention" };
    let attends = attends(keys)?;
    let (whole, turned) = (keys.size("attention.key_length_mla")?, keys.size("rope.dimension_count")?);
    let own = whole.checked_sub(turned).filter(|own| *own > 0).ok_or_else(|| {
        keys.error("attention.key_length_mla", format!("want more than the {turned} shared channels, found {whole}"))
    })?;
    if let Some(gating) = keys.some("expert_gating_func")?.filter(|gating| *gating != 2) {
        return Err(keys.error("expert_gating_func", format!("want 2 (sigmoid), found {gating}")));
    }
    let count = keys.size("expert_count")? as usize;
    set(
        &mut fields,
        &[
            ("layer_types", json!(attends.iter().map(|attends| kind(*attends)).collect::<Vec<_>>())),
            ("linear_num_heads", heads),
            ("linear_head_dim", json!(keys.size("kda.head_dim")?)),
            ("linear_conv_kernel_dim", json!(keys.size("ssm.conv_kernel")?)),
            ("kv_lora_rank", json!(keys.size("attention.kv_lora_rank")?)),
            ("qk_nope_head_dim", json!(own)),
            ("qk_rope_head_dim", json!(turned)),
            ("v_head_dim", json!(keys.size("attention.value_length_mla")?)),
            ("num_experts", json!(count)),
            ("num_experts_per_token", json!(keys.size("expert_used_count")?)),
            ("num_shared_experts", json!(keys.some("expert_shared_count")?.unwrap_or(1))),
            ("moe_intermediate_size", json!(keys.size("expert_feed_forward_length")?)),
            ("first_k_dense_replace", json!(keys.some("leading_dense_block_count")?.unwrap_or(0))),
            ("norm_topk_prob", json!(keys.flag("expert_weights_norm")?.unwrap_or(true))),
            ("routed_scaling_factor", json!(keys.number("expert_weights_scale")?.unwrap_or(1.0))),
        ],
    );
    let mut rewrites = delta(keys)?;
    rewrites.extend(around(["model.embed_tokens", "model.norm", "lm_head"]));
    rewrites.extend(of_layers(LAYERS, &[("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")]));
    rewrites.extend(of_part(LAYERS, "self_attn", &ATTENTION));
    let of_latents =
        [("kv_a_proj_with_mqa", "attn_kv_a_mqa"), ("kv_a_layernorm", "attn_kv_a_norm"), ("kv_b_proj", "attn_kv_b")];
    rewrites.extend(of_part(LAYERS, "self_attn", &of_latents));
    rewrites.extend(of_part(LAYERS, "mlp", &FEED_FORWARD));
    let shared = [("gate_proj", "ffn_gate_shexp"), ("up_proj", "ffn_up_shexp"), ("down_proj", "ffn_down_shexp")];
    rewrites.extend(of_part(LAYERS, "block_sparse_moe.shared_experts", &shared));
    rewrites.extend(of_part(LAYERS, "block_sparse_moe", &[("gate", "ffn_gate_inp")]));
    let correction = format!("{LAYERS}.*.block_sparse_moe.gate.e_score_correction_bias");
    rewrites.push(Rewrite::new(correction, "blk.*.exp_probs_b.bias", []));
    let names = [("w1", "ffn_gate_exps"), ("w3", "ffn_up_exps"), ("w2", "ffn_down_exps")];
    rewrites.extend(experts(LAYERS, "block_sparse_moe.experts", count, &names));
    let of_keys = |i: &usize| keys.shape(&format!("blk.{i}.attn_k_b.weight")).is_some();
    let joined = (0..attends.len()).filter(of_keys).map(|i| Joined {
        ours: format!("{LAYERS}.{i}.self_attn.kv_b_proj.weight"),
        transposed: format!("blk.{i}.attn_k_b.weight"),
        plain: format!("blk.{i}.attn_v_b.weight"),
    });
    Ok(Read { joined: joined.collect(), ..Read::new(fields, rewrites) })
}

/// The tensors of Kimi delta attention.
fn delta(keys: &Keys<'_>) -> Result<Vec<Rewrite>, Error> {
    let ours = |name: &str| format!("{LAYERS}.*.self_attn.{name}");
    let layers = keys.layers()?;
    // Axes of length 1 are kept by some writers and dropped by others.
    let stored = |name: &str| {
        let shape = (0..layers).find_map(|i| keys.shape(&format!("blk.{i}.{name}")));
        shape.map(|shape| Step::Stored(shape.to_vec()))
    };
    let mut all = Vec::new();
    for (name, file) in [
        ("b_proj", "ssm_beta"),
        ("f_proj.0", "ssm_f_a"),
        ("f_proj.1", "ssm_f_b"),
        ("g_proj.0", "ssm_g_a"),
        ("g_proj.1", "ssm_g_b"),
        ("o_norm", "ssm_norm"),
    ] {
        all.extend(both(&ours(name), &format!("blk.*.{file}")));
    }
    all.push(Rewrite::new(ours("dt_bias"), "blk.*.ssm_dt.bias", []));
    let steps: Vec<Step> = stored("ssm_a").into_iter().chain([Step::Values(Values::NegativeExponential)]).collect();
    all.push(Rewrite::new(ours("A_log"), "blk.*.ssm_a", steps));
    for kind in ["q", "k", "v"] {
        let file = format!("ssm_conv1d_{kind}.weight");
        let steps: Vec<Step> = stored(&file).into_iter().collect();
        all.push(Rewrite::new(ours(&format!("{kind}_conv1d.weight")), format!("blk.*.{file}"), steps));
    }
    Ok(all)
}
