//! `mamba2`: Dao and Gu 2024, as stored by Hugging Face.

use longreach_nn::NormConfig;
use longreach_nn::mixers::{GatedNorm, Mamba2Config, MixerConfig};

use crate::description::{eos, silu};
use crate::families::mamba::skeleton;
use crate::{Architecture, Description, Error, Fields, Rewrites};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "mamba2", mechanism: "mamba2", paper: "Dao and Gu 2024", describe };

fn describe(fields: &Fields) -> Result<Description, Error> {
    silu(fields)?;
    let hidden = fields.size("hidden_size", 4096)?;
    let heads = fields.size("num_heads", 128)?;
    let head_dim = fields.size("head_dim", 64)?;
    let expand = fields.number("expand", 2.0)?;
    let (groups, norm_eps) = (fields.size("n_groups", 8)?, fields.number("layer_norm_epsilon", 1e-5)?);
    let inner = heads.saturating_mul(head_dim);
    if inner as f64 != expand * hidden as f64 {
        return Err(fields.error(format!(
            "fields `num_heads` {heads} and `head_dim` {head_dim} result in {inner} channels, but `expand` {expand} and `hidden_size` {hidden} in {}",
            expand * hidden as f64
        )));
    }
    if heads % groups != 0 {
        return Err(fields.error(format!("field `n_groups`: want a divisor of `num_heads` {heads}, found {groups}")));
    }
    let norm = NormConfig::Rms(norm_eps);
    let mixer = MixerConfig::Mamba2(Mamba2Config {
        hidden,
        heads,
        head_dim,
        state: fields.size("state_size", 128)?,
        groups,
        conv: fields.size("conv_kernel", 4)?,
        conv_bias: fields.flag("use_conv_bias", true)?,
        bias: fields.flag("use_bias", false)?,
        out_bias: fields.flag("use_bias", false)?,
        norm: GatedNorm::AfterGate(norm_eps),
        multipliers: [1.0; 5],
        step_limit: fields.bounds("time_step_limit", (0.0, f32::INFINITY))?,
        step: (fields.number("time_step_min", 1e-3)? as f32, fields.number("time_step_max", 0.1)? as f32),
    });
    Ok(Description {
        model_type: "mamba2",
        decoder: skeleton(fields, [32768, hidden, 64], norm, mixer, false)?,
        eos: eos(fields, 2)?,
        rewrites: Rewrites::default(),
        context: None,
    })
}
