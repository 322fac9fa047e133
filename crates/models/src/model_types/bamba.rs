//! `bamba`: a few layers of attention among many of Mamba-2. Chen et al. 2024.

use longreach_attention::rotary::Rotary;
use longreach_nn::mixers::{AttentionConfig, MixerConfig};
use longreach_nn::{BlockConfig, BranchConfig, DecoderConfig, NamedNorm, OperationConfig};

use crate::families::hybrid::mamba2;
use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "bamba", mechanism: "mamba2", paper: "Chen et al. 2024", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let defaults =
        Defaults { vocabulary: 128_000, groups: Some(8), inner: 14_336, norm_eps: 1e-5, longest: 262_144, ..LLAMA };
    let model = Reader::new(f, defaults)?;
    let attention = model.attention()?;
    // Half of each head is rotated, whatever the fields say.
    let rotary = Rotary { width: attention.head_dim / 2, ..model.rotary("full_attention")? };
    let attention = AttentionConfig { rotary: Some(rotary), ..attention };
    let mamba = mamba2(f, model.hidden, 128, model.norm_eps)?;
    let feed_forward = OperationConfig::Gated(model.feed_forward()?);
    let listed = f.ids("attn_layer_indices")?;
    if let Some(i) = listed.iter().find(|i| **i as usize >= model.layers) {
        return Err(f.error(format!("field `attn_layer_indices`: want indices of {} layers, found {i}", model.layers)));
    }
    let attends = (0..model.layers).map(|i| listed.contains(&(i as u32)));
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
    let Description { decoder, eos, .. } = model.describe("bamba", attends.map(block).collect())?;
    let last_norm = Some(NamedNorm::new("final_layernorm", model.rms()));
    Ok(Description::new("bamba", DecoderConfig { last_norm, ..decoder }, eos))
}
