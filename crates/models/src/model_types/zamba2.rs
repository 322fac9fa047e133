//! `zamba2`: Mamba-2, with attention that a few layers share, and that reads the embeddings beside the residual stream.
//! Glorioso et al. 2024.

use longreach_attention::rotary::Rotary;
use longreach_nn::mixers::{AttentionConfig, GatedNorm, Mamba2Config, MixerConfig};
use longreach_nn::{Activation, BlockConfig, BranchConfig, DecoderConfig, NamedNorm, OperationConfig, ZambaConfig};
use serde_json::Value;

use crate::description::activation;
use crate::families::fla::divided;
use crate::families::hybrid::{as_many, kinds};
use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields, Rewrite};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "zamba2", mechanism: "mamba2", paper: "Glorioso et al. 2024", describe };

/// The layers that share attention in the released model, if the file does not say so.
const HYBRID: [usize; 9] = [6, 12, 18, 24, 30, 36, 42, 47, 51];

fn describe(f: &Fields) -> Result<Description, Error> {
    let defaults = Defaults { hidden: 2560, layers: 54, heads: 32, norm_eps: 1e-5, longest: 4096, tied: true, ..LLAMA };
    let mut fields = f.clone();
    // Heads divide vectors twice as wide as the model.
    let (hidden, heads) = (f.size("hidden_size", 2560)?, f.size("num_attention_heads", 32)?);
    let width = divided(f, "num_attention_heads", 2 * hidden, heads)?;
    fields.set("head_dim", Value::from(width));
    let (f, model) = (&fields, Reader::new(&fields, defaults)?);
    let inner = f.size("mamba_expand", 2)?.saturating_mul(hidden);
    let of_mamba = f.size("n_mamba_heads", 8)?;
    let groups = f.size("mamba_ngroups", 1)?;
    divided(f, "mamba_ngroups", of_mamba, groups)?;
    let bias = f.flag("add_bias_linear", false)?;
    let mamba = MixerConfig::Mamba2(Mamba2Config {
        hidden,
        heads: of_mamba,
        head_dim: divided(f, "n_mamba_heads", inner, of_mamba)?,
        state: f.size("mamba_d_state", 64)?,
        groups,
        conv: f.size("mamba_d_conv", 4)?,
        conv_bias: true,
        bias,
        out_bias: bias,
        // Fixed, whatever that of the other norms.
        norm: GatedNorm::AfterGate(1e-5),
        multipliers: [1.0; 5],
        step_limit: (f.number("time_step_min", 1e-3)? as f32, f32::INFINITY),
        step: (1e-3, 0.1),
    });
    let names = [("linear_attention", false), ("mamba", false), ("hybrid", true)];
    let hybrid = match kinds(f, "layers_block_type", &names)? {
        Some(kinds) => kinds,
        None => (0..model.layers).map(|i| HYBRID.contains(&i)).collect(),
    };
    as_many(f, "layers_block_type", &hybrid, model.layers)?;
    let rotary = if f.flag("use_mem_rope", false)? { Some(model.rotary("hybrid")?) } else { None };
    let adapted = f.flag("use_shared_attention_adapter", false)?;
    let rank = f.size("adapter_rank", 128)?;
    let width = match f.count("intermediate_size", 0)? {
        0 => hidden.saturating_mul(4),
        width => width,
    };
    let activation = activation(f, "hidden_act", Activation::Gelu)?;
    let layer = |number: usize| -> Result<OperationConfig, Error> {
        let attention = attention(&model, rotary.clone(), adapted.then_some((rank, number)))?;
        Ok(OperationConfig::Zamba(Box::new(ZambaConfig {
            shared: "shared_transformer".into(),
            norm: NamedNorm::new("input_layernorm", model.rms()),
            attention,
            feed_forward_norm: NamedNorm::new("pre_ff_layernorm", model.rms()),
            inner: width,
            activation,
            bias: bias.into(),
            adapter: (rank, number),
            mixer: (
                "mamba_decoder".into(),
                NamedNorm::new("input_layernorm", model.rms()),
                "mamba".into(),
                mamba.clone(),
            ),
        })))
    };
    let mut number = 0;
    let block = |hybrid: &bool| {
        let branch = if *hybrid {
            number += 1;
            BranchConfig::new("", layer(number - 1)?)
        } else {
            BranchConfig::mixer("mamba", mamba.clone()).before("input_layernorm", model.rms())
        };
        Ok(BlockConfig::new(vec![branch]))
    };
    let blocks = hybrid.iter().map(block).collect::<Result<_, Error>>()?;
    let Description { decoder, eos, .. } = model.describe("zamba2", blocks)?;
    let last_norm = Some(NamedNorm::new("final_layernorm", model.rms()));
    let description = Description::new("zamba2", DecoderConfig { last_norm, ..decoder }, eos);
    let rewrites = rewrites(&hybrid, f.size("num_mem_blocks", 1)?);
    Ok(Description { rewrites: rewrites.into(), ..description })
}

/// Attention to `[x | x₀]`.
fn attention(
    model: &Reader<'_>,
    rotary: Option<Rotary>,
    adapters: Option<(usize, usize)>,
) -> Result<AttentionConfig, Error> {
    let plain = model.attention()?;
    Ok(AttentionConfig {
        hidden: 2 * model.hidden,
        output: Some(model.hidden),
        scale: Some((plain.head_dim as f32 / 2.0).powf(-0.5)),
        bias: false,
        out_bias: false,
        rotary,
        adapters,
        ..plain
    })
}

/// A file has a shared part once, under the first of the layers that use it, or under each of them.
fn rewrites(hybrid: &[bool], blocks: usize) -> Vec<Rewrite> {
    let layers: Vec<usize> = (0..hybrid.len()).filter(|i| hybrid[*i]).collect();
    let parts = [
        "input_layernorm.weight",
        "pre_ff_layernorm.weight",
        "self_attn.q_proj.weight",
        "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",
        "self_attn.o_proj.weight",
        "feed_forward.gate_up_proj.weight",
        "feed_forward.gate_up_proj.bias",
        "feed_forward.down_proj.weight",
        "feed_forward.down_proj.bias",
        "feed_forward.gate_up_proj_adapter_list.*.*.weight",
        "self_attn.linear_q_adapter_list.*.*.weight",
        "self_attn.linear_k_adapter_list.*.*.weight",
        "self_attn.linear_v_adapter_list.*.*.weight",
    ];
    let one = |(number, layer): (usize, &usize)| {
        let first = layers[number % blocks];
        let at = |layer: usize, part: &str| format!("model.layers.{layer}.shared_transformer.{part}");
        let layer = *layer;
        parts.into_iter().flat_map(move |part| {
            [Rewrite::new(at(layer, part), at(layer, part), []), Rewrite::new(at(layer, part), at(first, part), [])]
        })
    };
    layers.iter().enumerate().flat_map(one).collect()
}
