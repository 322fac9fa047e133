//! Mamba and Mamba-2 as Hugging Face stores them.

use longreach_nn::mixers::{InnerNorm, MambaConfig, MixerConfig};
use longreach_nn::{BlockConfig, BranchConfig, DecoderConfig, DecoderNames, NamedNorm, NormConfig, WordsConfig};

use crate::description::{eos, silu};
use crate::{Description, Error, Fields, Rewrites};

/// The decoder of `mamba` and `mamba2`: blocks of a norm and a mixer, and a final norm.
pub(crate) fn skeleton(
    fields: &Fields,
    [vocabulary, hidden, layers]: [usize; 3],
    norm: NormConfig,
    mixer: MixerConfig,
    tied: bool,
) -> Result<DecoderConfig, Error> {
    let block = BlockConfig::new(vec![BranchConfig::mixer("mixer", mixer).before("norm", norm)]);
    let size = [fields.size("vocab_size", vocabulary)?, hidden];
    let layers = fields.layers("num_hidden_layers", layers)?;
    let names = DecoderNames::new(["backbone", "embeddings", "layers", "lm_head"]);
    Ok(DecoderConfig {
        last_norm: Some(NamedNorm::new("norm_f", norm)),
        words: WordsConfig::Table { tied: fields.flag("tie_word_embeddings", tied)? },
        ..DecoderConfig::new(size, vec![block; layers], names)
    })
}

/// What `mamba` and `falcon_mamba` share: everything except the defaults and the inner norms.
pub(crate) fn family(
    fields: &Fields,
    model_type: &'static str,
    layers: usize,
    tied: bool,
    eos_default: u32,
    inner_norm: Option<InnerNorm>,
) -> Result<Description, Error> {
    silu(fields)?;
    let hidden = fields.size("hidden_size", 768)?;
    // If both are given, `intermediate_size` takes precedence, as in Hugging Face.
    let inner = fields.size("intermediate_size", fields.size("expand", 2)?.saturating_mul(hidden))?;
    let rank = match fields.text("time_step_rank") {
        Ok(None | Some("auto")) => hidden.div_ceil(16),
        _ => fields.size("time_step_rank", 1)?,
    };
    let norm = NormConfig::Rms(fields.number("layer_norm_epsilon", 1e-5)?);
    let mixer = MixerConfig::Mamba(MambaConfig {
        hidden,
        inner,
        state: fields.size("state_size", 16)?,
        conv: fields.size("conv_kernel", 4)?,
        rank,
        conv_bias: fields.flag("use_conv_bias", true)?,
        bias: fields.flag("use_bias", false)?,
        inner_norm,
        step: (fields.number("time_step_min", 1e-3)? as f32, fields.number("time_step_max", 0.1)? as f32),
    });
    Ok(Description {
        model_type,
        decoder: skeleton(fields, [50280, hidden, layers], norm, mixer, tied)?,
        eos: eos(fields, eos_default)?,
        rewrites: Rewrites::default(),
        context: None,
    })
}
