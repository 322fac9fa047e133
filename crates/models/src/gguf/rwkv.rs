//! RWKV-6 and RWKV-7.

use longreach_nn::mixers::MixerConfig;
use longreach_nn::{BlockConfig, DecoderConfig, NamedNorm, NormConfig, OperationConfig};
use serde_json::{Map, Value, json};

use super::keys::Keys;
use super::names::{around, both, of_layers, of_part};
use super::{Read, each_branch};
use crate::{Error, Rewrite, Step};

const LAYERS: &str = "model.layers";

/// ε of the norm of the heads of RWKV-6, which is fixed.
const HEADS_EPS: f64 = 64e-5;

/// The fields of both.
fn fields(keys: &Keys<'_>, model_type: &str) -> Result<Map<String, Value>, Error> {
    let mut fields = keys.common(model_type)?;
    let hidden = keys.size("embedding_length")?;
    let width = keys.size("wkv.head_size")?;
    if width == 0 || !hidden.is_multiple_of(width) {
        return Err(keys.error("wkv.head_size", format!("heads of {width} channels in a model of {hidden}")));
    }
    for (name, value) in [
        ("intermediate_size", json!(keys.size("feed_forward_length")?)),
        ("norm_eps", json!(keys.number("attention.layer_norm_epsilon")?.unwrap_or(1e-5))),
        ("norm_bias", json!(keys.shape("blk.0.attn_norm.bias").is_some())),
        ("norm_first", json!(keys.shape("token_embd_norm.weight").is_some())),
        ("num_heads", json!(hidden / width)),
    ] {
        fields.insert(name.into(), value);
    }
    Ok(fields)
}

/// The tensors around the mixers, which both have.
fn tensors() -> Vec<Rewrite> {
    [
        around(["model.embeddings", "model.norm", "lm_head"]),
        both("model.layers.0.pre_norm", "token_embd_norm"),
        of_layers(LAYERS, &[("attn_norm", "attn_norm"), ("ffn_norm", "attn_norm_2")]),
        of_part(LAYERS, "attn", &[("o_proj", "time_mix_output"), ("g_norm", "time_mix_ln")]),
        of_part(LAYERS, "ffn", &[("value", "channel_mix_value")]),
    ]
    .concat()
}

/// A tensor after the name of a layer.
fn one(ours: &str, file: &str, steps: impl Into<Vec<Step>>) -> Rewrite {
    Rewrite::new(format!("{LAYERS}.*.{ours}"), format!("blk.*.{file}.weight"), steps)
}

/// `rwkv6`
pub(super) fn rwkv6(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = fields(keys, "rwkv6")?;
    let hidden = keys.size("embedding_length")? as usize;
    for (name, value) in [
        ("expand_k", json!(1.0)),
        ("expand_v", json!(1.0)),
        ("proj_low_rank_dim", json!(keys.some("time_mix_extra_dim")?.unwrap_or(32))),
        ("gate_low_rank_dim", json!(keys.some("time_decay_extra_dim")?.unwrap_or(64))),
    ] {
        fields.insert(name.into(), value);
    }
    let mut rewrites = tensors();
    rewrites.extend([
        one("attn.x_proj.0.mu", "time_mix_lerp_x", []),
        one("attn.x_proj.0.linear.weight", "time_mix_w1", []),
        one("attn.x_proj.2.weight", "time_mix_w2", [Step::Beside(5)]),
        one("attn.x_bias", "time_mix_lerp_fused", [Step::Stored(vec![5, 1, 1, hidden])]),
        one("attn.r_proj.linear.weight", "time_mix_receptance", []),
        one("attn.k_proj.linear.weight", "time_mix_key", []),
        one("attn.v_proj.linear.weight", "time_mix_value", []),
        one("attn.g_proj.linear.weight", "time_mix_gate", []),
        one("attn.w_proj.linear.lora.0.weight", "time_mix_decay_w1", []),
        one("attn.w_proj.linear.lora.2.weight", "time_mix_decay_w2", []),
        one("attn.w_proj.linear.lora.2.bias", "time_mix_decay", []),
        one("attn.bonus", "time_mix_first", []),
        one("ffn.key.mu", "channel_mix_lerp_k", []),
        one("ffn.key.linear.weight", "channel_mix_key", []),
        one("ffn.receptance.mu", "channel_mix_lerp_r", []),
        one("ffn.receptance.linear.weight", "channel_mix_receptance", []),
    ]);
    let every = keys.some("rescale_every_n_layers")?.unwrap_or(0) as usize;
    let adjust = move |decoder: &mut DecoderConfig| {
        each_branch(decoder, |branch| {
            if let OperationConfig::Mixer(MixerConfig::Rwkv6(mixer)) = &mut branch.operation {
                mixer.norm_eps = HEADS_EPS;
                // In files they come in the order of decay, key, value, receptance, gate.
                mixer.slots = [3, 0, 1, 2, 4];
            }
        });
        if every > 0 {
            unscaled(decoder, every);
        }
    };
    Ok(Read { adjust: Some(Box::new(adjust)), ..Read::new(fields, rewrites) })
}

/// Undoes a scaling against overflow in 16 bits: the outputs of layer `i` are stored divided by `2^⌊i / every⌋`, for a
/// residual stream that is halved after every so many layers. Here the stream keeps its scale, so that outputs are
/// multiplied and the ε of its norms grow with the square.
fn unscaled(decoder: &mut DecoderConfig, every: usize) {
    let halvings = |layers: usize| (layers / every).min(100) as i32;
    let grown = |named: &mut Option<NamedNorm>, halvings: i32| {
        if let Some(NamedNorm { norm: NormConfig::Layer(eps, _), .. }) = named {
            *eps *= 4f64.powi(halvings);
        }
    };
    let layers = decoder.blocks.len();
    for (i, BlockConfig { branches, .. }) in decoder.blocks.iter_mut().enumerate() {
        for branch in branches {
            branch.scale *= 2f32.powi(halvings(i));
            grown(&mut branch.before, halvings(i));
        }
    }
    grown(&mut decoder.last_norm, halvings(layers));
}

/// `rwkv7`
pub(super) fn rwkv7(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = fields(keys, "rwkv7")?;
    let hidden = keys.size("embedding_length")? as usize;
    fields.insert("head_dim".into(), json!(keys.size("wkv.head_size")?));
    for (name, key) in [
        ("decay_low_rank_dim", "attention.decay_lora_rank"),
        ("gate_low_rank_dim", "attention.gate_lora_rank"),
        ("a_low_rank_dim", "attention.iclr_lora_rank"),
        ("v_low_rank_dim", "attention.value_residual_mix_lora_rank"),
    ] {
        fields.insert(name.into(), json!(keys.size(key)?));
    }
    let mut rewrites = tensors();
    for (i, name) in ["x_r", "x_w", "x_k", "x_v", "x_a", "x_g"].into_iter().enumerate() {
        let steps = [Step::Stored(vec![6, 1, 1, hidden]), Step::Rows(i..i + 1, 6)];
        rewrites.push(one(&format!("attn.{name}"), "time_mix_lerp_fused", steps));
    }
    for kind in ["w", "a", "v", "g"] {
        let at = format!("attn.{kind}_lora.lora");
        rewrites.push(one(&format!("{at}.0.weight"), &format!("time_mix_{kind}1"), []));
        rewrites.push(one(&format!("{at}.2.weight"), &format!("time_mix_{kind}2"), []));
        rewrites.push(one(&format!("{at}.2.bias"), &format!("time_mix_{kind}0"), []));
    }
    rewrites.extend([
        one("attn.k_k", "time_mix_k_k", []),
        one("attn.k_a", "time_mix_k_a", []),
        one("attn.r_k", "time_mix_r_k", [Step::Stored(vec![hidden])]),
        one("attn.r_proj.weight", "time_mix_receptance", []),
        one("attn.k_proj.weight", "time_mix_key", []),
        one("attn.v_proj.weight", "time_mix_value", []),
        one("ffn.x_k", "channel_mix_lerp_k", []),
        one("ffn.key.weight", "channel_mix_key", []),
    ]);
    // The first layer has copies of other tensors in place of those that it does not have.
    let unread = (0..3).map(|i| format!("blk.0.time_mix_v{i}.weight")).collect();
    Ok(Read { unread, ..Read::new(fields, rewrites) })
}
