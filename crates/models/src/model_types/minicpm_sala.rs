//! `minicpm_sala`: MiniCPM-SALA, lightning attention, and in some layers sparse attention with InfLLM v2 and without
//! positions. Both have gates before their output projection. MiniCPM Team 2026.
//!
//! The decays of lightning attention are the slopes of ALiBi, whatever the layer. Its number of heads is `lightning_nh`, and
//! their width `lightning_head_dim`, as in vLLM and SGLang; the authors' code takes `num_attention_heads` and `head_dim`,
//! which are the same in the published model.

use longreach_attention::rotary::Rotary;
use longreach_nn::BranchConfig;
use longreach_nn::mixers::{
    AttentionConfig, AttentionNames, Decays, LightningConfig, LightningInputs, MixerConfig, OutputGate,
};

use crate::families::fla::divided;
use crate::families::hybrid::{as_many, kinds};
use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::families::minicpm::{block, describe as description, reach, rotary};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "minicpm_sala", mechanism: "lightning", paper: "MiniCPM Team 2026", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let defaults = Defaults { vocabulary: 73_448, inner: 16_384, longest: 524_288, ..LLAMA };
    let model = Reader::new(f, defaults)?;
    let rotary = rotary(&model)?;
    let attention = AttentionConfig {
        rotary: f.flag("attn_use_rope", false)?.then(|| rotary.clone()),
        reach: reach(f)?,
        gate: f.flag("attn_use_output_gate", true)?.then_some(OutputGate::Channel),
        names: AttentionNames { gate: "o_gate", ..AttentionNames::LLAMA },
        ..model.attention()?
    };
    let lightning = BranchConfig::mixer("self_attn", MixerConfig::Lightning(lightning(&model, &attention, rotary)?));
    let [sparse, lightning] = [block(&model, model.mixer(attention))?, block(&model, lightning)?];
    let named = [("minicpm4", true), ("lightning", false), ("lightning_attn", false), ("lightning-attn", false)];
    let Some(attends) = kinds(f, "mixer_types", &named)? else {
        return Err(f.error("field `mixer_types` is missing: want minicpm4 or lightning-attn for each layer"));
    };
    as_many(f, "mixer_types", &attends, model.layers)?;
    let blocks = attends.into_iter().map(|attends| if attends { sparse.clone() } else { lightning.clone() });
    description(&model, "minicpm_sala", blocks.collect())
}

/// Lightning attention.
fn lightning(model: &Reader<'_>, attention: &AttentionConfig, rotary: Rotary) -> Result<LightningConfig, Error> {
    let f = model.f;
    let heads = f.size("lightning_nh", attention.heads)?;
    let groups = f.size("lightning_nkv", attention.groups)?;
    divided(f, "lightning_nkv", heads, groups)?;
    let head_dim = f.size("lightning_head_dim", attention.head_dim)?;
    let norm = |name: &str| Ok::<_, Error>(f.flag(name, true)?.then_some(model.norm_eps));
    let scale = match f.text("lightning_scale")? {
        None | Some("1/sqrt(d)") => (head_dim as f64).powf(-0.5),
        Some("1/d") => 1.0 / head_dim as f64,
        Some("1") => 1.0,
        Some(other) => {
            return Err(f.error(format!("field `lightning_scale`: want 1/sqrt(d), 1/d or 1, found \"{other}\"")));
        }
    };
    let rotary = Rotary { width: head_dim, ..rotary };
    Ok(LightningConfig {
        hidden: model.hidden,
        heads,
        head_dim,
        inputs: LightningInputs::Apart {
            groups,
            bias: attention.bias,
            norm_eps: norm("qk_norm")?,
            rotary: f.flag("lightning_use_rope", true)?.then_some(rotary),
        },
        decays: Decays::Slopes,
        scale: scale as f32,
        norm_eps: norm("use_output_norm")?,
        gated: f.flag("use_output_gate", true)?,
        names: ["z_proj", "o_norm", "o_proj"],
    })
}
