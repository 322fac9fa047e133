//! `jamba`: one layer of attention among many of Mamba, mixtures of experts in every second layer, and no positions.
//! Lieber et al. 2024.

use longreach_nn::mixers::{InnerNorm, MambaConfig, MixerConfig};
use longreach_nn::{BlockConfig, BranchConfig, DecoderConfig, ExpertsConfig, NamedNorm, OperationConfig, RouterConfig};

use crate::description::silu;
use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "jamba", mechanism: "mamba", paper: "Lieber et al. 2024", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    silu(f)?;
    let defaults = Defaults { vocabulary: 65_536, groups: Some(8), inner: 14_336, ..LLAMA };
    let model = Reader::new(f, defaults)?;
    let hidden = model.hidden;
    let rank = match f.text("mamba_dt_rank") {
        Ok(None | Some("auto")) => hidden.div_ceil(16),
        _ => f.size("mamba_dt_rank", 1)?,
    };
    let mamba = MixerConfig::Mamba(MambaConfig {
        hidden,
        inner: f.size("mamba_expand", 2)?.saturating_mul(hidden),
        state: f.size("mamba_d_state", 16)?,
        conv: f.size("mamba_d_conv", 4)?,
        rank,
        conv_bias: f.flag("mamba_conv_bias", true)?,
        bias: f.flag("mamba_proj_bias", false)?,
        inner_norm: Some(InnerNorm::Weighted(model.norm_eps)),
        step: (1e-3, 0.1),
    });
    let attention = MixerConfig::Attention(model.attention()?);
    let dense = OperationConfig::Gated(model.feed_forward()?);
    let count = f.size("num_experts", 16)?;
    let size = [count, f.size("num_experts_per_tok", 2)?];
    let experts = ExpertsConfig::new(size, RouterConfig::softmax("router", false), model.feed_forward()?);
    let experts = OperationConfig::Experts(experts);
    let every =
        |period: &str, offset: &str, [p, o]: [usize; 2]| Ok::<_, Error>((f.size(period, p)?, f.count(offset, o)?));
    let (attends, attends_at) = every("attn_layer_period", "attn_layer_offset", [8, 4])?;
    let (mixes, mixes_at) = every("expert_layer_period", "expert_layer_offset", [2, 1])?;
    let block = |i: usize| {
        let mixer = match i % attends == attends_at {
            true => BranchConfig::mixer("self_attn", attention.clone()),
            false => BranchConfig::mixer("mamba", mamba.clone()),
        };
        let sparse = count > 1 && i % mixes == mixes_at;
        let feed_forward = if sparse { experts.clone() } else { dense.clone() };
        BlockConfig::new(vec![
            mixer.before("input_layernorm", model.rms()),
            BranchConfig::new("feed_forward", feed_forward).before("pre_ff_layernorm", model.rms()),
        ])
    };
    let Description { decoder, eos, .. } = model.describe("jamba", (0..model.layers).map(block).collect())?;
    let last_norm = Some(NamedNorm::new("final_layernorm", model.rms()));
    Ok(Description::new("jamba", DecoderConfig { last_norm, ..decoder }, eos))
}
