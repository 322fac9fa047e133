//! Qwen's hybrids of gated attention and the gated delta rule: Qwen3-Next and Qwen3.5. Norms are stored with 1 added, but
//! that of the gated delta rule.

use longreach_nn::OperationConfig;
use longreach_nn::mixers::MixerConfig;
use serde_json::{Map, Value, json};

use super::hybrids::set;
use super::keys::Keys;
use super::names::{ATTENTION, EXPERTS, FEED_FORWARD, around, experts, of_layers, of_part};
use super::{Read, each_branch, llama};
use crate::families::delta::gated_attention_of;
use crate::{Error, Rewrite, Step, Values};

const LAYERS: &str = "model.layers";

/// The sizes of the gated delta rule.
struct Sizes {
    heads: usize,
    groups: usize,
    key: usize,
    value: usize,
    taps: usize,
}

/// `qwen3next`
pub(super) fn qwen3next(keys: &Keys<'_>) -> Result<Read, Error> {
    let (fields, sizes) = fields(keys, "qwen3_next")?;
    let shared = sizes.heads / sizes.groups.max(1);
    let mut rewrites = Vec::new();
    for (name, rows) in [("b_proj", 0..shared), ("a_proj", shared..2 * shared)] {
        let step = Step::Within { groups: sizes.groups, rows, of: 2 * shared };
        rewrites.push(of_delta(&format!("{name}.weight"), "ssm_ba.weight", vec![step]));
    }
    rewrites.extend(tensors(keys, &fields, &sizes)?);
    Ok(Read { whole_norms: true, ..Read::new(fields, rewrites) })
}

/// `qwen35` and `qwen35moe`
pub(super) fn qwen35(keys: &Keys<'_>) -> Result<Read, Error> {
    let sparse = keys.some("expert_count")?.unwrap_or(0) > 0;
    let (fields, sizes) = fields(keys, if sparse { "qwen3_5_moe_text" } else { "qwen3_5_text" })?;
    let mut rewrites = vec![
        of_delta("b_proj.weight", "ssm_beta.weight", Vec::new()),
        of_delta("a_proj.weight", "ssm_alpha.weight", Vec::new()),
    ];
    rewrites.extend(tensors(keys, &fields, &sizes)?);
    let adjust = |decoder: &mut longreach_nn::DecoderConfig| {
        each_branch(decoder, |branch| {
            if let OperationConfig::Mixer(MixerConfig::GatedDelta(delta)) = &mut branch.operation {
                // llama.cpp's converter reorders the heads of values so that those which share keys are apart.
                delta.cyclic = true;
            }
        });
    };
    Ok(Read { whole_norms: true, adjust: Some(Box::new(adjust)), ..Read::new(fields, rewrites) })
}

fn fields(keys: &Keys<'_>, model_type: &str) -> Result<(Map<String, Value>, Sizes), Error> {
    let mut fields = keys.transformer(model_type)?;
    let size = |name: &str| keys.size(name).map(|n| n as usize);
    let heads = size("ssm.time_step_rank")?;
    let sizes = Sizes {
        heads,
        groups: size("ssm.group_count")?,
        key: size("ssm.state_size")?,
        value: size("ssm.inner_size")? / heads.max(1),
        taps: size("ssm.conv_kernel")?,
    };
    let layers = keys.layers()?;
    let every = keys.some("full_attention_interval")?.unwrap_or(4).max(1);
    let attends: Vec<bool> = match keys.marks("attention.recurrent_layers", layers, |_, _| true)? {
        Some(recurrent) => recurrent.into_iter().map(|recurrent| !recurrent).collect(),
        None => (1..=layers).map(|i| i.is_multiple_of(every)).collect(),
    };
    let kind = |attends: bool| if attends { "full_attention" } else { "linear_attention" };
    let kinds: Vec<&str> = attends.into_iter().map(kind).collect();
    let count = keys.some("expert_count")?.unwrap_or(0) as usize;
    let width = keys.some("attention.key_length")?.unwrap_or(256);
    let turned = keys.some("rope.dimension_count")?.unwrap_or(width / 4);
    set(
        &mut fields,
        &[
            ("head_dim", json!(width)),
            ("layer_types", json!(kinds)),
            ("partial_rotary_factor", json!(turned as f64 / width.max(1) as f64)),
            ("linear_num_value_heads", json!(sizes.heads)),
            ("linear_num_key_heads", json!(sizes.groups)),
            ("linear_key_head_dim", json!(sizes.key)),
            ("linear_value_head_dim", json!(sizes.value)),
            ("linear_conv_kernel_dim", json!(sizes.taps)),
            ("num_experts", json!(count)),
            ("num_experts_per_tok", json!(keys.some("expert_used_count")?.unwrap_or(1))),
            ("moe_intermediate_size", json!(keys.some("expert_feed_forward_length")?.unwrap_or(1))),
            ("shared_expert_intermediate_size", json!(keys.some("expert_shared_feed_forward_length")?.unwrap_or(1))),
            ("mlp_only_layers", json!(llama::without_experts(keys)?)),
        ],
    );
    Ok((fields, sizes))
}

/// A tensor of the gated delta rule.
fn of_delta(ours: &str, file: &str, steps: Vec<Step>) -> Rewrite {
    Rewrite::new(format!("{LAYERS}.*.linear_attn.{ours}"), format!("blk.*.{file}"), steps)
}

fn tensors(keys: &Keys<'_>, fields: &Map<String, Value>, sizes: &Sizes) -> Result<Vec<Rewrite>, Error> {
    let Sizes { heads, groups, key, value, taps } = *sizes;
    let number = |name: &str| fields[name].as_u64().unwrap_or(1) as usize;
    let mut rewrites = around(["model.embed_tokens", "model.norm", "lm_head"]);
    rewrites.extend(of_layers(
        LAYERS,
        &[("input_layernorm", "attn_norm"), ("post_attention_layernorm", "post_attention_norm")],
    ));
    rewrites.extend(gated_attention_of("blk.*.attn_q", number("num_attention_heads"), number("head_dim")));
    rewrites.extend(of_part(LAYERS, "self_attn", &ATTENTION));
    let overflow = || keys.error("ssm.inner_size", "the sizes of the gated delta rule are too large");
    let of_keys = groups.checked_mul(key).ok_or_else(overflow)?;
    let all = heads.checked_mul(value).and_then(|n| n.checked_add(of_keys.checked_mul(2)?)).ok_or_else(overflow)?;
    for (name, rows) in [("q", 0..of_keys), ("k", of_keys..2 * of_keys), ("v", 2 * of_keys..all)] {
        let steps = vec![Step::Rows(rows.clone(), all)];
        rewrites.push(of_delta(&format!("{name}_proj.weight"), "attn_qkv.weight", steps));
        let steps = vec![Step::Stored(vec![all, taps]), Step::Rows(rows, all)];
        rewrites.push(of_delta(&format!("{name}_conv1d.weight"), "ssm_conv1d.weight", steps));
    }
    rewrites.extend([
        of_delta("g_proj.weight", "attn_gate.weight", Vec::new()),
        of_delta("A_log", "ssm_a", vec![Step::Values(Values::NegativeExponential)]),
        of_delta("dt_bias", "ssm_dt.bias", Vec::new()),
        of_delta("o_norm.weight", "ssm_norm.weight", Vec::new()),
        of_delta("o_proj.weight", "ssm_out.weight", Vec::new()),
    ]);
    let shared = [("gate_proj", "ffn_gate_shexp"), ("up_proj", "ffn_up_shexp"), ("down_proj", "ffn_down_shexp")];
    rewrites.extend(of_part(LAYERS, "mlp", &FEED_FORWARD));
    rewrites.extend(of_part(LAYERS, "mlp", &[("gate", "ffn_gate_inp")]));
    rewrites.extend(of_part(LAYERS, "mlp.shared_expert", &shared));
    // A vector in files of the Hub, a matrix of one row in others.
    let vector = (0..keys.layers()?)
        .find_map(|i| keys.shape(&format!("blk.{i}.ffn_gate_inp_shexp.weight")))
        .is_some_and(|shape| shape.len() == 1);
    let steps = if vector { vec![Step::Stored(vec![keys.size("embedding_length")? as usize])] } else { Vec::new() };
    let gate = format!("{LAYERS}.*.mlp.shared_expert_gate.weight");
    rewrites.push(Rewrite::new(gate, "blk.*.ffn_gate_inp_shexp.weight", steps));
    rewrites.extend(experts(LAYERS, "mlp.experts", number("num_experts"), &EXPERTS));
    Ok(rewrites)
}
