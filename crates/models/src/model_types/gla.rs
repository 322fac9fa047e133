//! `gla`: Yang et al. 2024, as stored by flash-linear-attention.

use longreach_nn::mixers::parts::Heads;
use longreach_nn::mixers::{GlaConfig, MixerConfig};

use crate::families::fla;
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "gla", mechanism: "gla", paper: "Yang et al. 2024", describe };

/// Constants of the library's layer.
const GATE_RANK: usize = 16;
const NORMALIZER: f64 = 16.0;

fn describe(fields: &Fields) -> Result<Description, Error> {
    let clamp = fields.get("clamp_min").map(|_| fields.number("clamp_min", 0.0)).transpose()?;
    if let Some(least) = clamp
        && least > 0.0
    {
        return Err(fields.error(format!("field `clamp_min`: want 0 or less, found {least}")));
    }
    let defaults = fla::Defaults { layers: 24, hidden_ratio: 4.0 };
    fla::describe(fields, "gla", &defaults, |hidden, _| {
        let (gated, norm) = fla::gated_norm(fields)?;
        Ok(MixerConfig::Gla(GlaConfig {
            heads: Heads { conv: fla::conv(fields, false)?, ..fla::heads(fields, hidden, (4, 0.5, 1.0))? },
            gate_rank: GATE_RANK,
            normalizer: NORMALIZER,
            clamp,
            features: fla::feature_map(fields)?,
            gated,
            norm,
        }))
    })
}
