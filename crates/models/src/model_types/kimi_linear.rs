//! `kimi_linear`: Kimi delta attention, with latent attention without positions in every fourth layer, and mixtures of
//! experts. Kimi Team 2025.

use longreach_nn::mixers::{GateProjection, MixerConfig};
use longreach_nn::{DecoderConfig, ExpertGroups, OperationConfig, WordsConfig};
use serde_json::Value;

use crate::families::hybrid::{as_many, kinds};
use crate::families::latent::{Mixture, attention, block, delta, experts, sparse};
use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields, Rewrite, Step};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "kimi_linear", mechanism: "kda", paper: "Kimi Team 2025", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let defaults =
        Defaults { vocabulary: 163_840, hidden: 2304, layers: 27, inner: 9216, norm_eps: 1e-5, eos: 163_586, ..LLAMA };
    let mut fields = f.clone();
    // The width of a head of Kimi's attention is that of its parts.
    fields.set("head_dim", Value::from(1));
    let (f, model) = (&fields, Reader::new(&fields, defaults)?);
    let linear =
        f.objects("linear_attn_config")?.into_iter().next().unwrap_or_else(|| f.within(serde_json::Map::new()));
    let size = |name: &str, older: &str, default: usize| match linear.get(older) {
        Some(_) => linear.size(older, default),
        None => f.size(name, default),
    };
    let heads = size("linear_num_heads", "num_heads", 32)?;
    let width = size("linear_head_dim", "head_dim", 128)?;
    let taps = size("linear_conv_kernel_dim", "short_conv_kernel_size", 4)?;
    let gates = GateProjection::LowRank { bias: false };
    let delta = MixerConfig::Kda(delta(f, model.hidden, [heads, width, taps], model.norm_eps, gates)?);
    let attention = MixerConfig::Mla(attention(f, model.hidden, None)?);
    let groups = ExpertGroups { count: 1, kept: 1 };
    let mixture = Mixture { count: 256, chosen: 8, inner: 1024, groups, scale: 2.446 };
    let dense = model.feed_forward()?;
    let experts = experts(f, &mixture, "gate.e_score_correction_bias", ["w1", "w3", "w2"], &dense)?;
    let sparse = sparse(f, model.layers, 1)?;
    let attends = attends(f, &linear, model.layers)?;
    let blocks = attends.into_iter().zip(sparse).map(|(attends, sparse)| {
        let mixer = if attends { attention.clone() } else { delta.clone() };
        let operation = match sparse {
            true => ("block_sparse_moe", experts.clone()),
            false => ("mlp", OperationConfig::Gated(dense.clone())),
        };
        block(&model, ("self_attn", mixer), operation)
    });
    let Description { decoder, eos, .. } = model.describe("kimi_linear", blocks.collect())?;
    // As in transformers, the head has a matrix of its own, whatever the fields say.
    let decoder = DecoderConfig { words: WordsConfig::Table { tied: false }, ..decoder };
    Ok(Description { rewrites: rewrites(heads).into(), ..Description::new("kimi_linear", decoder, eos) })
}

/// Which layers have latent attention: those of `layer_types`, or those that `linear_attn_config` counts from 1, or every
/// fourth after the first.
fn attends(f: &Fields, linear: &Fields, layers: usize) -> Result<Vec<bool>, Error> {
    if let Some(kinds) = kinds(f, "layer_types", &[("full_attention", true), ("linear_attention", false)])? {
        as_many(f, "layer_types", &kinds, layers)?;
        return Ok(kinds);
    }
    if linear.get("full_attn_layers").is_none() {
        return Ok((0..layers).map(|i| i > 0 && i % 4 == 0).collect());
    }
    let listed = linear.ids("full_attn_layers")?;
    Ok((1..=layers).map(|i| listed.contains(&(i as u32))).collect())
}

/// Names and shapes of the delta attention's parts, and the feed-forward layers as transformers names them.
fn rewrites(heads: usize) -> Vec<Rewrite> {
    let at = "model.layers.*";
    let mut all = vec![Rewrite::new(
        format!("{at}.self_attn.A_log"),
        format!("{at}.self_attn.A_log"),
        [Step::Stored(vec![1, 1, heads, 1])],
    )];
    for (ours, file) in
        [("f_proj.0", "f_a_proj"), ("f_proj.1", "f_b_proj"), ("g_proj.0", "g_a_proj"), ("g_proj.1", "g_b_proj")]
    {
        all.push(Rewrite::new(format!("{at}.self_attn.{ours}.weight"), format!("{at}.self_attn.{file}.weight"), []));
    }
    for name in ["gate_proj", "up_proj", "down_proj"] {
        let ours = format!("{at}.mlp.{name}.weight");
        all.push(Rewrite::new(&ours, &ours, []));
        all.push(Rewrite::new(&ours, format!("{at}.block_sparse_moe.{name}.weight"), []));
    }
    all
}
