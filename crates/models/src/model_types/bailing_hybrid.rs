//! `bailing_hybrid`: Ling 3, Kimi delta attention, with gated latent attention in every sixth layer, and mixtures of
//! experts. Ling Team 2026.

use longreach_attention::rotary::{Rotary, Scaling};
use longreach_nn::mixers::{GateProjection, KdaConfig, MixerConfig, MlaConfig};
use longreach_nn::{DecoderConfig, DecoderNames, ExpertGroups, OperationConfig};
use serde_json::Value;

use crate::families::hybrid::{as_many, kinds};
use crate::families::latent::{Mixture, attention, block, delta, experts, sparse};
use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields, Rewrite};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "bailing_hybrid", mechanism: "kda", paper: "Ling Team 2026", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let defaults = Defaults {
        vocabulary: 157_184,
        hidden: 2560,
        layers: 42,
        inner: 6144,
        theta: 6e6,
        longest: 262_144,
        eos: 156_895,
        ..LLAMA
    };
    // transformers 5 writes the width of the rotated part as `head_dim`, and that of the delta attention by other names.
    let width = f.size(if f.given("linear_head_dim") { "linear_head_dim" } else { "head_dim" }, 128)?;
    let mut fields = f.clone();
    let rope = f.size("qk_rope_head_dim", 64)?;
    fields.set("head_dim", Value::from(rope));
    let (f, model) = (&fields, Reader::new(&fields, defaults)?);
    let heads = f.size("num_attention_heads", 32)?;
    let heads = if f.given("linear_num_heads") { f.size("linear_num_heads", heads)? } else { heads };
    let taps = if f.given("linear_conv_kernel_dim") { "linear_conv_kernel_dim" } else { "short_conv_kernel_size" };
    let bound = f.number("kda_lower_bound", -5.0)?;
    if bound >= 0.0 {
        return Err(f.error(format!("field `kda_lower_bound`: want a number below 0, found {bound}")));
    }
    let delta = MixerConfig::Kda(KdaConfig {
        lower_bound: f.flag("kda_safe_gate", true)?.then_some(bound),
        ..delta(f, model.hidden, [heads, width, f.size(taps, 4)?], model.norm_eps, GateProjection::Full)?
    });
    let rotary = Rotary { width: rope, interleaved: true, ..model.rotary("full_attention")? };
    let plain = attention(f, model.hidden, None)?;
    let scale = plain.scale * of_scores(f, &rotary.scaling)?;
    let attention = MixerConfig::Mla(MlaConfig { rotary: Some(rotary), gate: true, scale, ..plain });
    let groups = ExpertGroups { count: 8, kept: 4 };
    let mixture = Mixture { count: 512, chosen: 8, inner: 768, groups, scale: 2.5 };
    let dense = model.feed_forward()?;
    let names = ["gate_proj", "up_proj", "down_proj"];
    let experts = experts(f, &mixture, "gate.expert_bias", names, &dense)?;
    let sparse = sparse(f, model.layers, 2)?;
    let every = f.size("layer_group_size", 6)?;
    let attends = kinds(f, "layer_types", &[("full_attention", true), ("linear_attention", false)])?;
    let attends = attends.unwrap_or_else(|| (1..=model.layers).map(|i| i.is_multiple_of(every)).collect());
    as_many(f, "layer_types", &attends, model.layers)?;
    let blocks = attends.into_iter().zip(sparse).map(|(attends, sparse)| {
        let mixer = if attends { attention.clone() } else { delta.clone() };
        let operation = if sparse { experts.clone() } else { OperationConfig::Gated(dense.clone()) };
        block(&model, ("attention", mixer), ("mlp", operation))
    });
    let Description { decoder, eos, .. } = model.describe("bailing_hybrid", blocks.collect())?;
    let names = DecoderNames::new(["model", "word_embeddings", "layers", "lm_head"]);
    let decoder = DecoderConfig { names, ..decoder };
    let name = |name: &str| format!("model.layers.*.attention.{name}");
    let output = |kind: &str| {
        let file = |name_| format!("{}.{kind}", name(name_));
        Rewrite::new(file("o_proj"), file("dense"), [])
    };
    let rewrites = ["weight", "bias"].map(output).to_vec();
    Ok(Description { rewrites: rewrites.into(), ..Description::new("bailing_hybrid", decoder, eos) })
}

/// The further factor of the scores, of positions scaled with `mscale_all_dim`. DeepSeek-AI 2024.
fn of_scores(f: &Fields, scaling: &Scaling) -> Result<f32, Error> {
    if *scaling == Scaling::Default {
        return Ok(1.0);
    }
    let name = if f.get("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
    let Some(given) = f.objects(name)?.into_iter().next() else { return Ok(1.0) };
    let (all, factor) = (given.number("mscale_all_dim", 0.0)?, given.number("factor", 1.0)?);
    let by = if all == 0.0 || factor <= 1.0 { 1.0 } else { 0.1 * all * factor.ln() + 1.0 };
    Ok((by * by) as f32)
}
