//! Granite: transformers, mixtures of experts, and Granite 4's hybrids with Mamba-2, all with scaled embeddings, branches and
//! logits. Bamba is the last of them without factors, and with positions in a part of each head.

use longreach_nn::mixers::MixerConfig;
use longreach_nn::{BranchConfig, DecoderConfig, OperationConfig};
use serde_json::{Map, Value, json};

use super::hybrids::{attends, duality, has, set};
use super::keys::Keys;
use super::mamba::Duality;
use super::names::{ATTENTION, EXPERTS, around, experts, of_layers, of_part};
use super::{Read, each_branch};
use crate::{Error, Rewrite, Step};

const LAYERS: &str = "model.layers";

/// `granitehybrid`: Granite 4, and Bamba.
pub(super) fn hybrid(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = keys.transformer("granitemoehybrid")?;
    let sizes = Duality::of(keys)?;
    duality(&mut fields, &sizes);
    let hidden = keys.size("embedding_length")? as usize;
    set(
        &mut fields,
        &[
            ("mamba_expand", json!(sizes.inner / hidden.max(1))),
            ("mamba_conv_bias", json!(has(keys, "ssm_conv1d.bias")?)),
            ("mamba_proj_bias", json!(has(keys, "ssm_in.bias")?)),
        ],
    );
    let read = read(keys, fields, attends(keys)?)?;
    Ok(Read { rewrites: [read.rewrites, sizes.tensors("model.layers.*.mamba")].concat(), ..read })
}

/// `granite` and `granitemoe`, which have no layers of Mamba-2.
pub(super) fn transformer(keys: &Keys<'_>) -> Result<Read, Error> {
    let mut fields = keys.transformer("granitemoehybrid")?;
    set(&mut fields, &[("mamba_n_heads", json!(1))]);
    read(keys, fields, vec![true; keys.layers()? as usize])
}

fn read(keys: &Keys<'_>, mut fields: Map<String, Value>, attends: Vec<bool>) -> Result<Read, Error> {
    let hidden = keys.size("embedding_length")?;
    let count = keys.some("expert_count")?.unwrap_or(0) as usize;
    let kind = |attends: bool| if attends { "attention" } else { "mamba" };
    let shared = match keys.some("expert_shared_feed_forward_length")? {
        Some(shared) if shared > 0 => shared,
        _ => fields.get("intermediate_size").and_then(Value::as_u64).unwrap_or(1),
    };
    let rotated = keys.flag("rope.scaling.finetuned")?.unwrap_or(true);
    let width = hidden / fields["num_attention_heads"].as_u64().unwrap_or(1).max(1);
    let width = keys.some("attention.key_length")?.unwrap_or(width);
    let of_scores = match keys.number("attention.scale")? {
        Some(scale) if scale != 0.0 => scale,
        _ => (width.max(1) as f64).powf(-0.5),
    };
    let scale = |name: &str| Ok::<_, Error>(json!(keys.number(name)?.unwrap_or(1.0)));
    set(
        &mut fields,
        &[
            ("layer_types", json!(attends.into_iter().map(kind).collect::<Vec<_>>())),
            ("num_local_experts", json!(count)),
            ("num_experts_per_tok", json!(keys.some("expert_used_count")?.unwrap_or(1).max(1))),
            ("shared_intermediate_size", json!(shared)),
            ("position_embedding_type", json!(if rotated { "rope" } else { "nope" })),
            ("attention_multiplier", json!(of_scores)),
            ("embedding_multiplier", scale("embedding_scale")?),
            ("residual_multiplier", scale("residual_scale")?),
            ("logits_scaling", scale("logit_scale")?),
            ("attention_bias", json!(has(keys, "attn_q.bias")?)),
        ],
    );
    let turned = keys.some("rope.dimension_count")?.filter(|turned| rotated && *turned != width);
    if let Some(turned) = turned.filter(|turned| *turned > width || turned % 2 != 0) {
        return Err(keys.error("rope.dimension_count", format!("{turned} channels of heads of {width}")));
    }
    let alone = count > 0 && !has(keys, "ffn_up_shexp.weight")?;
    // llama.cpp's converter interleaves the rows of whole heads, even where only a part of each is rotated.
    let mut rewrites = match turned {
        Some(_) => apart(width as usize),
        None => Vec::new(),
    };
    rewrites.extend(tensors(count));
    let adjust = move |decoder: &mut DecoderConfig| {
        each_branch(decoder, |branch| match &mut branch.operation {
            OperationConfig::Mixer(MixerConfig::Attention(attention)) => {
                if let (Some(turned), Some(rotary)) = (turned, &mut attention.rotary) {
                    rotary.width = turned as usize;
                }
            }
            OperationConfig::Parallel(branches) if alone => {
                branches.retain(|branch: &BranchConfig| branch.name != "shared_mlp");
            }
            _ => {}
        });
    };
    Ok(Read { pairs: turned.is_none(), adjust: Some(Box::new(adjust)), ..Read::new(fields, rewrites) })
}

/// Queries and keys in the order of the model's checkpoints.
fn apart(width: usize) -> Vec<Rewrite> {
    let one = |(ours, file): (&str, &str)| {
        ["weight", "bias"].map(|kind| {
            let ours = format!("{LAYERS}.*.self_attn.{ours}.{kind}");
            Rewrite::new(ours, format!("blk.*.{file}.{kind}"), [Step::Paired(width)])
        })
    };
    [("q_proj", "attn_q"), ("k_proj", "attn_k")].into_iter().flat_map(one).collect()
}

fn tensors(count: usize) -> Vec<Rewrite> {
    let dense = [("gate_proj", "ffn_gate"), ("up_proj", "ffn_up"), ("output_linear", "ffn_down")];
    let beside = [("gate_proj", "ffn_gate_shexp"), ("up_proj", "ffn_up_shexp"), ("output_linear", "ffn_down_shexp")];
    let norms = [("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")];
    let mut rewrites = around(["model.embed_tokens", "model.norm", "lm_head"]);
    rewrites.extend(of_layers(LAYERS, &norms));
    rewrites.extend(of_part(LAYERS, "self_attn", &ATTENTION));
    rewrites.extend(of_part(LAYERS, "shared_mlp", if count > 0 { &beside } else { &dense }));
    rewrites.extend(of_part(LAYERS, "block_sparse_moe", &[("router.layer", "ffn_gate_inp")]));
    rewrites.extend(experts(LAYERS, "block_sparse_moe.experts", count, &EXPERTS));
    rewrites
}
