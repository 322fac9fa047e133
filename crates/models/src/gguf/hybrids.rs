//! Hybrids of attention and other mixers. Layers without KV heads have no attention.

use serde_json::{Map, Value, json};

use super::keys::Keys;
use super::mamba::{Duality, selective};
use super::names::{ATTENTION, EXPERTS, FEED_FORWARD, around, experts, of_layers, of_part};
use super::{Read, llama};
use crate::families::delta::gated_attention_of;
use crate::{Error, Rewrite, Step, Values};

const LAYERS: &str = "model.layers";

/// Which layers have KV heads.
fn attends(keys: &Keys<'_>) -> Result<Vec<bool>, Error> {
    let layers = keys.layers()?;
    let groups = keys.of_layers("attention.head_count_kv", layers)?;
    Ok(groups.map_or_else(|| vec![true; layers as usize], |groups| groups.into_iter().map(|n| n > 0).collect()))
}

/// The distance between the marked layers and the first of them, which they must have in common.
fn period(keys: &Keys<'_>, what: &str, marks: &[bool]) -> Result<[usize; 2], Error> {
    let at: Vec<usize> = (0..marks.len()).filter(|i| marks[*i]).collect();
    let (first, step) = match at[..] {
        [] => return Ok([marks.len() + 1, marks.len()]),
        [first] => (first, marks.len() + 1),
        [first, second, ..] => (first, second - first),
    };
    let regular = first < step && (0..marks.len()).all(|i| marks[i] == (i % step == first));
    if !regular {
        return Err(keys.error("block_count", format!("the layers of {what} are not equally far apart: {at:?}")));
    }
    Ok([step, first])
}

fn set(fields: &mut Map<String, Value>, values: &[(&str, Value)]) {
    for (name, value) in values {
        fields.insert((*name).into(), value.clone());
    }
}

/// The fields of Mamba-2 that begin with `mamba`.
fn duality(fields: &mut Map<String, Value>, sizes: &Duality) {
    let head_dim = sizes.inner / sizes.heads.max(1);
    set(
        fields,
        &[
            ("mamba_n_heads", json!(sizes.heads)),
            ("mamba_d_head", json!(head_dim)),
            ("mamba_d_state", json!(sizes.state)),
            ("mamba_n_groups", json!(sizes.groups)),
            ("mamba_d_conv", json!(sizes.taps)),
        ],
    );
}

/// `jamba`: Mamba and attention without positions; mixtures of experts where a layer has a router.
pub(super) fn jamba(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = keys.transformer("jamba")?;
    let [period_of, offset] = period(keys, "attention", &attends(keys)?)?;
    let layers = keys.layers()?;
    let mixed: Vec<bool> = (0..layers).map(|i| keys.shape(&format!("blk.{i}.ffn_gate_inp.weight")).is_some()).collect();
    let [experts_period, experts_offset] = period(keys, "experts", &mixed)?;
    let count = keys.some("expert_count")?.unwrap_or(0).max(1) as usize;
    let (inner, taps) = (keys.size("ssm.inner_size")? as usize, keys.size("ssm.conv_kernel")? as usize);
    let hidden = keys.size("embedding_length")? as usize;
    set(
        &mut fields,
        &[
            ("attn_layer_period", json!(period_of)),
            ("attn_layer_offset", json!(offset)),
            ("expert_layer_period", json!(experts_period)),
            ("expert_layer_offset", json!(experts_offset)),
            ("num_experts", json!(count)),
            ("num_experts_per_tok", json!(keys.some("expert_used_count")?.unwrap_or(1).max(1))),
            ("mamba_expand", json!(inner / hidden.max(1))),
            ("mamba_d_state", json!(keys.size("ssm.state_size")?)),
            ("mamba_d_conv", json!(taps)),
            ("mamba_dt_rank", json!(keys.size("ssm.time_step_rank")?)),
        ],
    );
    let norms = [("input_layernorm", "attn_norm"), ("pre_ff_layernorm", "ffn_norm")];
    let mut rewrites = around(["model.embed_tokens", "model.final_layernorm", "lm_head"]);
    rewrites.extend(of_layers(LAYERS, &norms));
    rewrites.extend(of_part(LAYERS, "self_attn", &ATTENTION));
    rewrites.extend(of_part(LAYERS, "feed_forward", &FEED_FORWARD));
    rewrites.extend(of_part(LAYERS, "feed_forward", &[("router", "ffn_gate_inp")]));
    rewrites.extend(experts(LAYERS, "feed_forward.experts", count, &EXPERTS));
    rewrites.extend(selective("model.layers.*.mamba", [inner, taps]));
    Ok(Read::new(fields, rewrites))
}

/// `falcon-h1`: all factors are in the weights.
pub(super) fn falcon_h1(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = keys.transformer("falcon_h1")?;
    let sizes = Duality::of(keys)?;
    duality(&mut fields, &sizes);
    set(
        &mut fields,
        &[
            ("mamba_d_ssm", json!(sizes.inner)),
            ("mamba_rms_norm", json!(keys.shape("blk.0.ssm_norm.weight").is_some())),
            ("mamba_norm_before_gate", json!(false)),
            ("mamba_conv_bias", json!(keys.shape("blk.0.ssm_conv1d.bias").is_some())),
            ("mamba_proj_bias", json!(keys.shape("blk.0.ssm_in.bias").is_some())),
            ("projectors_bias", json!(keys.shape("blk.0.ssm_out.bias").is_some())),
            ("attention_bias", json!(keys.shape("blk.0.attn_q.bias").is_some())),
            ("mlp_bias", json!(keys.shape("blk.0.ffn_down.bias").is_some())),
        ],
    );
    let mut rewrites = around(["model.embed_tokens", "model.final_layernorm", "lm_head"]);
    // Its files leave out the end of the name of one norm.
    let norm = format!("{LAYERS}.*.pre_ff_layernorm.weight");
    rewrites.push(Rewrite::new(&norm, "blk.*.ffn_norm", []));
    rewrites.extend(of_layers(LAYERS, &[("input_layernorm", "attn_norm"), ("pre_ff_layernorm", "ffn_norm")]));
    rewrites.extend(of_part(LAYERS, "self_attn", &ATTENTION));
    rewrites.extend(of_part(LAYERS, "feed_forward", &FEED_FORWARD));
    rewrites.extend(sizes.tensors("model.layers.*.mamba"));
    Ok(Read::new(fields, rewrites))
}

/// `granitehybrid`: Granite 4.
pub(super) fn granite(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = keys.transformer("granitemoehybrid")?;
    let sizes = Duality::of(keys)?;
    duality(&mut fields, &sizes);
    let hidden = keys.size("embedding_length")? as usize;
    let count = keys.some("expert_count")?.unwrap_or(0) as usize;
    let kind = |attends: bool| if attends { "attention" } else { "mamba" };
    let kinds: Vec<&str> = attends(keys)?.into_iter().map(kind).collect();
    let shared = match keys.some("expert_shared_feed_forward_length")? {
        Some(shared) => shared,
        None => fields.get("intermediate_size").and_then(Value::as_u64).unwrap_or(1),
    };
    let rotated = keys.flag("rope.scaling.finetuned")?.unwrap_or(true);
    let width = hidden as u64 / fields["num_attention_heads"].as_u64().unwrap_or(1).max(1);
    let width = keys.some("attention.key_length")?.unwrap_or(width);
    let of_scores = match keys.number("attention.scale")? {
        Some(scale) if scale != 0.0 => scale,
        _ => (width.max(1) as f64).powf(-0.5),
    };
    if let Some(turned) = keys.some("rope.dimension_count")?.filter(|turned| rotated && *turned != width) {
        // llama.cpp's converter reorders the rows of whole heads, which belongs to positions of whole heads.
        let message = format!("positions of {turned} of {width} channels of a head are not supported here");
        return Err(keys.error("rope.dimension_count", message));
    }
    let scale = |name: &str| Ok::<_, Error>(json!(keys.number(name)?.unwrap_or(1.0)));
    set(
        &mut fields,
        &[
            ("mamba_expand", json!(sizes.inner / hidden.max(1))),
            ("layer_types", json!(kinds)),
            ("num_local_experts", json!(count)),
            ("num_experts_per_tok", json!(keys.some("expert_used_count")?.unwrap_or(1).max(1))),
            ("shared_intermediate_size", json!(shared)),
            ("position_embedding_type", json!(if rotated { "rope" } else { "nope" })),
            ("attention_multiplier", json!(of_scores)),
            ("embedding_multiplier", scale("embedding_scale")?),
            ("residual_multiplier", scale("residual_scale")?),
            ("logits_scaling", scale("logit_scale")?),
            ("mamba_conv_bias", json!(has(keys, "ssm_conv1d.bias")?)),
            ("mamba_proj_bias", json!(has(keys, "ssm_in.bias")?)),
            ("attention_bias", json!(has(keys, "attn_q.bias")?)),
        ],
    );
    let end = if count > 0 { "_shexp" } else { "" };
    let shared: Vec<(String, String)> =
        [("gate_proj", "ffn_gate"), ("up_proj", "ffn_up"), ("output_linear", "ffn_down")]
            .map(|(ours, file)| (ours.to_owned(), format!("{file}{end}")))
            .to_vec();
    let shared: Vec<(&str, &str)> = shared.iter().map(|(ours, file)| (&ours[..], &file[..])).collect();
    let norms = [("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")];
    let mut rewrites = around(["model.embed_tokens", "model.norm", "lm_head"]);
    rewrites.extend(of_layers(LAYERS, &norms));
    rewrites.extend(of_part(LAYERS, "self_attn", &ATTENTION));
    rewrites.extend(of_part(LAYERS, "shared_mlp", &shared));
    rewrites.extend(of_part(LAYERS, "block_sparse_moe", &[("router.layer", "ffn_gate_inp")]));
    rewrites.extend(experts(LAYERS, "block_sparse_moe.experts", count, &EXPERTS));
    rewrites.extend(sizes.tensors("model.layers.*.mamba"));
    Ok(Read { pairs: true, ..Read::new(fields, rewrites) })
}

/// Whether any layer has this tensor.
fn has(keys: &Keys<'_>, name: &str) -> Result<bool, Error> {
    Ok((0..keys.layers()?).any(|i| keys.shape(&format!("blk.{i}.{name}")).is_some()))
}

/// `nemotron_h` and `nemotron_h_moe`: one operation a layer.
pub(super) fn nemotron(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = keys.transformer("nemotron_h")?;
    let sizes = Duality::of(keys)?;
    let layers = keys.layers()?;
    let widths = keys.of_layers("feed_forward_length", layers)?.unwrap_or_else(|| vec![0; layers as usize]);
    let kind = |(i, attends): (usize, bool)| {
        let router = keys.shape(&format!("blk.{i}.ffn_gate_inp.weight")).is_some();
        match (attends, router, widths[i] > 0) {
            (true, ..) => "attention",
            (_, true, _) => "moe",
            (_, _, true) => "mlp",
            _ => "mamba",
        }
    };
    let kinds: Vec<&str> = attends(keys)?.into_iter().enumerate().map(kind).collect();
    set(
        &mut fields,
        &[
            ("layers_block_type", json!(kinds)),
            ("mamba_num_heads", json!(sizes.heads)),
            ("mamba_head_dim", json!(sizes.inner / sizes.heads.max(1))),
            ("ssm_state_size", json!(sizes.state)),
            ("n_groups", json!(sizes.groups)),
            ("conv_kernel", json!(sizes.taps)),
            ("use_conv_bias", json!(has(keys, "ssm_conv1d.bias")?)),
            ("use_bias", json!(has(keys, "ssm_in.bias")?)),
            ("mlp_bias", json!(has(keys, "ffn_up.bias")? || has(keys, "ffn_up_shexp.bias")?)),
        ],
    );
    let count = keys.some("expert_count")?.unwrap_or(0) as usize;
    if count > 0 {
        let latent = keys.some("moe_latent_size")?;
        set(
            &mut fields,
            &[
                ("n_routed_experts", json!(count)),
                ("num_experts_per_tok", json!(keys.size("expert_used_count")?)),
                ("moe_intermediate_size", json!(keys.size("expert_feed_forward_length")?)),
                ("moe_shared_expert_intermediate_size", json!(keys.size("expert_shared_feed_forward_length")?)),
                ("moe_latent_size", latent.map_or(Value::Null, Value::from)),
                ("norm_topk_prob", json!(keys.flag("expert_weights_norm")?.unwrap_or(true))),
                ("routed_scaling_factor", json!(keys.number("expert_weights_scale")?.unwrap_or(1.0))),
                ("n_group", json!(keys.some("expert_group_count")?.unwrap_or(1).max(1))),
                ("topk_group", json!(keys.some("expert_group_used_count")?.unwrap_or(1).max(1))),
            ],
        );
    }
    let at = "backbone.layers";
    let parts = [("up_proj", "ffn_up"), ("down_proj", "ffn_down"), ("gate", "ffn_gate_inp")];
    let around_experts = [
        ("shared_experts.up_proj", "ffn_up_shexp"),
        ("shared_experts.down_proj", "ffn_down_shexp"),
        ("fc1_latent_proj", "ffn_latent_down"),
        ("fc2_latent_proj", "ffn_latent_up"),
    ];
    let mut rewrites = around(["backbone.embeddings", "backbone.norm_f", "lm_head"]);
    rewrites.extend(of_layers(at, &[("norm", "attn_norm")]));
    rewrites.extend(of_part(at, "mixer", &ATTENTION));
    rewrites.extend(of_part(at, "mixer", &parts));
    rewrites.extend(of_part(at, "mixer", &around_experts));
    rewrites.push(Rewrite::new(format!("{at}.*.mixer.gate.e_score_correction_bias"), "blk.*.exp_probs_b.bias", []));
    rewrites.extend(experts(at, "mixer.experts", count, &EXPERTS[1..]));
    rewrites.extend(sizes.tensors("backbone.layers.*.mixer"));
    Ok(Read::new(fields, rewrites))
}

/// `lfm2` and `lfm2moe`
pub(super) fn lfm2(keys: &Keys<'_>) -> Result<Read, Error> {
    let count = keys.some("expert_count")?.unwrap_or(0) as usize;
    let mut fields = keys.transformer(if count > 0 { "lfm2_moe" } else { "lfm2" })?;
    let kind = |attends: bool| if attends { "full_attention" } else { "conv" };
    let kinds: Vec<&str> = attends(keys)?.into_iter().map(kind).collect();
    let (hidden, taps) = (keys.size("embedding_length")? as usize, keys.size("shortconv.l_cache")? as usize);
    set(
        &mut fields,
        &[
            ("layer_types", json!(kinds)),
            ("conv_L_cache", json!(taps)),
            ("conv_bias", json!(has(keys, "shortconv.in_proj.bias")?)),
            // The file has the width after it was adjusted.
            ("block_auto_adjust_ff_dim", json!(false)),
        ],
    );
    if count > 0 {
        set(
            &mut fields,
            &[
                ("num_experts", json!(count)),
                ("num_experts_per_tok", json!(keys.size("expert_used_count")?)),
                ("moe_intermediate_size", json!(keys.size("expert_feed_forward_length")?)),
                ("num_dense_layers", json!(keys.some("leading_dense_block_count")?.unwrap_or(0))),
                ("use_expert_bias", json!(has(keys, "exp_probs_b.bias")?)),
            ],
        );
    }
    let names = [
        ("q_proj", "attn_q"),
        ("k_proj", "attn_k"),
        ("v_proj", "attn_v"),
        ("out_proj", "attn_output"),
        ("q_layernorm", "attn_q_norm"),
        ("k_layernorm", "attn_k_norm"),
    ];
    let of_conv = [("in_proj", "shortconv.in_proj"), ("out_proj", "shortconv.out_proj")];
    let feed_forward = [("w1", "ffn_gate"), ("w3", "ffn_up"), ("w2", "ffn_down"), ("gate", "ffn_gate_inp")];
    // The last norm, despite its name.
    let norm = Rewrite::new("model.embedding_norm.weight", "token_embd_norm.weight", []);
    let mut rewrites = vec![norm];
    rewrites.extend(around(["model.embed_tokens", "model.embedding_norm", "lm_head"]));
    rewrites.extend(of_layers(LAYERS, &[("operator_norm", "attn_norm"), ("ffn_norm", "ffn_norm")]));
    rewrites.extend(of_part(LAYERS, "self_attn", &names));
    rewrites.extend(of_part(LAYERS, "conv", &of_conv));
    rewrites.push(Rewrite::new(
        format!("{LAYERS}.*.conv.conv.weight"),
        "blk.*.shortconv.conv.weight",
        [Step::Stored(vec![hidden, taps])],
    ));
    rewrites.push(Rewrite::new(format!("{LAYERS}.*.conv.conv.bias"), "blk.*.shortconv.conv.bias", []));
    rewrites.extend(of_part(LAYERS, "feed_forward", &feed_forward));
    rewrites.push(Rewrite::new(format!("{LAYERS}.*.feed_forward.expert_bias"), "blk.*.exp_probs_b.bias", []));
    let of_experts = [("w1", "ffn_gate_exps"), ("w3", "ffn_up_exps"), ("w2", "ffn_down_exps")];
    rewrites.extend(experts(LAYERS, "feed_forward.experts", count, &of_experts));
    Ok(Read::new(fields, rewrites))
}

/// `qwen3next`: norms are stored with 1 added, but that of the gated delta rule.
pub(super) fn qwen3next(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = keys.transformer("qwen3_next")?;
    let size = |name: &str| keys.size(name).map(|n| n as usize);
    let (heads, groups, key) = (size("ssm.time_step_rank")?, size("ssm.group_count")?, size("ssm.state_size")?);
    let value = size("ssm.inner_size")? / heads.max(1);
    let taps = size("ssm.conv_kernel")?;
    let layers = keys.layers()?;
    let every = keys.some("full_attention_interval")?.unwrap_or(4).max(1);
    let recurrent = keys.marks("attention.recurrent_layers", layers, |_, _| true)?;
    let attends: Vec<bool> = match recurrent {
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
            ("layer_types", json!(kinds)),
            ("partial_rotary_factor", json!(turned as f64 / width.max(1) as f64)),
            ("linear_num_value_heads", json!(heads)),
            ("linear_num_key_heads", json!(groups)),
            ("linear_key_head_dim", json!(key)),
            ("linear_value_head_dim", json!(value)),
            ("linear_conv_kernel_dim", json!(taps)),
            ("num_experts", json!(count)),
            ("num_experts_per_tok", json!(keys.some("expert_used_count")?.unwrap_or(1))),
            ("moe_intermediate_size", json!(keys.some("expert_feed_forward_length")?.unwrap_or(1))),
            ("shared_expert_intermediate_size", json!(keys.some("expert_shared_feed_forward_length")?.unwrap_or(1))),
            ("mlp_only_layers", json!(llama::without_experts(keys)?)),
        ],
    );
    let (all, keys_wide) = (2 * groups * key + heads * value, groups * key);
    let at = format!("{LAYERS}.*.linear_attn");
    let one =
        |ours: &str, file: &str, steps: Vec<Step>| Rewrite::new(format!("{at}.{ours}"), format!("blk.*.{file}"), steps);
    let mut rewrites = around(["model.embed_tokens", "model.norm", "lm_head"]);
    rewrites.extend(of_layers(
        LAYERS,
        &[("input_layernorm", "attn_norm"), ("post_attention_layernorm", "post_attention_norm")],
    ));
    rewrites.extend(gated_attention_of(
        "blk.*.attn_q",
        fields["num_attention_heads"].as_u64().unwrap_or(1) as usize,
        width as usize,
    ));
    rewrites.extend(of_part(LAYERS, "self_attn", &ATTENTION));
    let kinds = [("q", 0..keys_wide), ("k", keys_wide..2 * keys_wide), ("v", 2 * keys_wide..all)];
    for (name, rows) in kinds {
        rewrites.push(one(&format!("{name}_proj.weight"), "attn_qkv.weight", vec![Step::Rows(rows.clone(), all)]));
        let steps = vec![Step::Stored(vec![all, taps]), Step::Rows(rows, all)];
        rewrites.push(one(&format!("{name}_conv1d.weight"), "ssm_conv1d.weight", steps));
    }
    let shared = heads / groups.max(1);
    for (name, rows) in [("b_proj", 0..shared), ("a_proj", shared..2 * shared)] {
        let step = Step::Within { groups, rows, of: 2 * shared };
        rewrites.push(one(&format!("{name}.weight"), "ssm_ba.weight", vec![step]));
    }
    rewrites.extend([
        one("g_proj.weight", "attn_gate.weight", Vec::new()),
        one("A_log", "ssm_a", vec![Step::Values(Values::NegativeExponential)]),
        one("dt_bias", "ssm_dt.bias", Vec::new()),
        one("o_norm.weight", "ssm_norm.weight", Vec::new()),
        one("o_proj.weight", "ssm_out.weight", Vec::new()),
    ]);
    let shared = [("gate_proj", "ffn_gate_shexp"), ("up_proj", "ffn_up_shexp"), ("down_proj", "ffn_down_shexp")];
    rewrites.extend(of_part(LAYERS, "mlp", &FEED_FORWARD));
    rewrites.extend(of_part(LAYERS, "mlp", &[("gate", "ffn_gate_inp")]));
    rewrites.extend(of_part(LAYERS, "mlp.shared_expert", &shared));
    // A matrix of one row, or a vector.
    let vector = (0..layers)
        .find_map(|i| keys.shape(&format!("blk.{i}.ffn_gate_inp_shexp.weight")))
        .is_some_and(|shape| shape.len() == 1);
    let steps = if vector { vec![Step::Stored(vec![keys.size("embedding_length")? as usize])] } else { Vec::new() };
    let gate = format!("{LAYERS}.*.mlp.shared_expert_gate.weight");
    rewrites.push(Rewrite::new(gate, "blk.*.ffn_gate_inp_shexp.weight", steps));
    rewrites.extend(experts(LAYERS, "mlp.experts", count, &EXPERTS));
    Ok(Read { whole_norms: true, ..Read::new(fields, rewrites) })
}
