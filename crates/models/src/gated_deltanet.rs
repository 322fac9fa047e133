//! `gated_deltanet`: Yang et al. 2025, as stored by flash-linear-attention.

use longreach_nn::mixers::parts::Heads;
use longreach_nn::mixers::{GatedDeltaConfig, MixerConfig};

use crate::{Architecture, Description, Error, Fields, fla};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "gated_deltanet", mechanism: "gated_delta", paper: "Yang et al. 2025", describe };

fn describe(fields: &Fields) -> Result<Description, Error> {
    let defaults = fla::Defaults { layers: 21, hidden_ratio: 4.0 };
    fla::describe(fields, "gated_deltanet", &defaults, |hidden, _| {
        Ok(MixerConfig::GatedDelta(GatedDeltaConfig {
            heads: heads(fields, hidden, (256, 6, 2.0))?,
            up_to_two: fields.flag("allow_neg_eigval", false)?,
            gated: fields.flag("use_gate", true)?,
        }))
    })
}

/// The sizes of heads with a given width; there may be more value heads than key heads, by `num_v_heads`.
pub(crate) fn heads(fields: &Fields, hidden: usize, d: (usize, usize, f64)) -> Result<Heads, Error> {
    let (key, groups) = (fields.size("head_dim", d.0)?, fields.size("num_heads", d.1)?);
    let heads = fields.size("num_v_heads", groups)?;
    if !heads.is_multiple_of(groups) {
        return Err(fields.error(format!("field `num_v_heads`: want a multiple of {groups}, found {heads}")));
    }
    let value = key as f64 * fields.number("expand_v", d.2)?;
    if value < 1.0 || value.fract() != 0.0 {
        return Err(fields.error(format!("field `expand_v`: {value} channels per head is not an integer")));
    }
    Ok(Heads {
        hidden,
        heads,
        groups,
        key,
        value: fields.scaled("expand_v", value)?,
        conv: crate::fla::conv(fields, true)?,
        norm_eps: fields.number("norm_eps", 1e-6)?,
        affine: true,
    })
}
