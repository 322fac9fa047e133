//! `falcon_h1`: attention and Mamba-2 side by side in every layer, with factors at many places. TII 2025.

use longreach_nn::mixers::{AttentionConfig, GatedNorm, Mamba2Config, MixerConfig};
use longreach_nn::{BlockConfig, BranchConfig, DecoderConfig, GatedFeedForwardConfig, NamedNorm, OperationConfig};

use crate::families::hybrid::mamba2_sizes;
use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "falcon_h1", mechanism: "mamba2", paper: "TII 2025", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let defaults =
        Defaults { vocabulary: 128_000, groups: Some(8), inner: 14_336, norm_eps: 1e-5, longest: 8192, ..LLAMA };
    let model = Reader::new(f, defaults)?;
    let factor = |name: &str| f.number(name, 1.0).map(|by| by as f32);
    let inner = match f.given("mamba_d_ssm") {
        true => f.some_size("mamba_d_ssm")?.unwrap_or(f.size("mamba_expand", 2)?.saturating_mul(model.hidden)),
        false => 1024,
    };
    let eps = model.norm_eps;
    let mamba = Mamba2Config {
        out_bias: f.flag("projectors_bias", false)?,
        norm: match (f.flag("mamba_rms_norm", false)?, f.flag("mamba_norm_before_gate", true)?) {
            (false, _) => GatedNorm::Absent,
            (true, true) => GatedNorm::BeforeGate(eps),
            (true, false) => GatedNorm::AfterGate(eps),
        },
        multipliers: f.numbers("ssm_multipliers")?.unwrap_or([1.0; 5]),
        ..mamba2_sizes(f, model.hidden, inner, 128)?
    };
    let attention = model.attention()?;
    // The factor of keys, which are rotated after it, is one of the scores.
    let scale = (attention.head_dim as f32).powf(-0.5) * factor("key_multiplier")?;
    let rotary = Some(model.rotary("full_attention")?);
    let attention = MixerConfig::Attention(AttentionConfig { rotary, scale: Some(scale), ..attention });
    let [gate_scale, down] = f.numbers("mlp_multipliers")?.unwrap_or([1.0; 2]);
    let feed_forward = OperationConfig::Gated(GatedFeedForwardConfig { gate_scale, ..model.feed_forward()? });
    let block = BlockConfig::new(vec![
        BranchConfig::new(
            "",
            OperationConfig::Parallel(vec![
                BranchConfig {
                    input_scale: factor("ssm_in_multiplier")?,
                    scale: factor("ssm_out_multiplier")?,
                    ..BranchConfig::mixer("mamba", MixerConfig::Mamba2(mamba))
                },
                BranchConfig {
                    input_scale: factor("attention_in_multiplier")?,
                    scale: factor("attention_out_multiplier")?,
                    ..BranchConfig::mixer("self_attn", attention)
                },
            ]),
        )
        .before("input_layernorm", model.rms()),
        BranchConfig {
            scale: down,
            ..BranchConfig::new("feed_forward", feed_forward).before("pre_ff_layernorm", model.rms())
        },
    ]);
    let Description { decoder, eos, .. } = model.describe("falcon_h1", vec![block; model.layers])?;
    let decoder = DecoderConfig {
        last_norm: Some(NamedNorm::new("final_layernorm", model.rms())),
        embedding_scale: factor("embedding_multiplier")?,
        logits_scale: factor("lm_head_multiplier")?,
        ..decoder
    };
    Ok(Description::new("falcon_h1", decoder, eos))
}
