//! `hgrn2`: Qin et al. 2024, as stored by flash-linear-attention.

use longreach_nn::mixers::parts::Heads;
use longreach_nn::mixers::{Hgrn2Config, MixerConfig};

use crate::families::fla;
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "hgrn2", mechanism: "hgrn2", paper: "Qin et al. 2024", describe };

/// ε of the output norm: a constant of the library's layer.
const NORM_EPS: f64 = 1e-5;

fn describe(fields: &Fields) -> Result<Description, Error> {
    let defaults = fla::Defaults { layers: 24, hidden_ratio: 4.0 };
    let mut description = fla::describe(fields, "hgrn2", &defaults, |hidden, _| {
        // `expand_ratio` takes precedence over `num_heads`; it is 128 if neither is given.
        let ratio = if fields.given("expand_ratio") { fields.some_size("expand_ratio")? } else { Some(128) };
        let heads = fields.some_size("num_heads")?;
        let (key, heads) = match (ratio, heads) {
            (None, Some(heads)) => (fla::divided(fields, "num_heads", hidden, heads)?, heads),
            (ratio, _) => {
                let ratio = ratio.unwrap_or(128);
                (ratio, hidden / ratio)
            }
        };
        Ok(MixerConfig::Hgrn2(Hgrn2Config {
            heads: Heads {
                hidden,
                heads,
                groups: heads,
                key,
                value: fla::divided(fields, "expand_ratio", hidden, heads)?,
                conv: fla::conv(fields, false)?,
                norm_eps: NORM_EPS,
                affine: fields.flag("elementwise_affine", true)?,
            },
        }))
    })?;
    if fields.flag("use_lower_bound", true)? {
        let gates = |mixer: &MixerConfig| match mixer {
            MixerConfig::Hgrn2(c) => Some(c.heads.heads * c.heads.key),
            _ => None,
        };
        let hidden = description.decoder.hidden;
        if description.decoder.blocks.iter().flat_map(|b| b.mixers()).filter_map(gates).any(|gates| gates != hidden) {
            return Err(
                fields.error(format!("field `expand_ratio`: want a divisor of {hidden} with `use_lower_bound`"))
            );
        }
        description.decoder.lower_bounds = Some(hidden);
    }
    Ok(description)
}
