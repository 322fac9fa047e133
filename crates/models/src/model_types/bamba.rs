//! `bamba`: a few layers of attention among many of Mamba-2. Chen et al. 2024.

use longreach_nn::mixers::{AttentionConfig, MixerConfig};
use longreach_nn::{BlockConfig, BranchConfig, DecoderConfig, NamedNorm, OperationConfig};
use serde_json::json;

use crate::families::hybrid::{as_many, kinds, mamba2};
use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "bamba", mechanism: "mamba2", paper: "Chen et al. 2024", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let mut fields = f.clone();
    fields.set_default("partial_rotary_factor", json!(0.5));
    let defaults = Defaults {
        vocabulary: 128_000,
        groups: Some(8),
        inner: 14_336,
        norm_eps: 1e-5,
        longest: 262_144,
        partial: true,
        ..LLAMA
    };
    let model = Reader::new(&fields, defaults)?;
    let attention = AttentionConfig { rotary: Some(model.rotary("full_attention")?), ..model.attention()? };
    let mamba = mamba2(f, model.hidden, 128, model.norm_eps)?;
    let feed_forward = OperationConfig::Gated(model.feed_forward()?);
    let of_list = f.ids("attn_layer_indices")?;
    let names = [("full_attention", true), ("attention", true), ("linear_attention", false), ("mamba", false)];
    let attends = match kinds(f, "layer_types", &names)? {
        Some(kinds) => kinds,
        None => match kinds(f, "layers_block_type", &names)? {
            Some(kinds) => kinds,
            None => (0..model.layers).map(|i| of_list.contains(&(i as u32))).collect(),
        },
    };
    as_many(f, "layer_types", &attends, model.layers)?;
    let block = |attends: bool| {
        let mixer = match attends {
            true => BranchConfig::mixer("self_attn", MixerConfig::Attention(attention.clone())),
            false => BranchConfig::mixer("mamba", mamba.clone()),
        };
        BlockConfig::new(vec![
            mixer.before("input_layernorm", model.rms()),
            BranchConfig::new("feed_forward", feed_forward.clone()).before("pre_ff_layernorm", model.rms()),
        ])
    };
    let Description { decoder, eos, .. } = model.describe("bamba", attends.into_iter().map(block).collect())?;
    let last_norm = Some(NamedNorm::new("final_layernorm", model.rms()));
    Ok(Description { model_type: "bamba", decoder: DecoderConfig { last_norm, ..decoder }, eos })
}
