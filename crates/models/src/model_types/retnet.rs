//! `retnet`: Sun et al. 2023, as stored by flash-linear-attention.

use longreach_nn::mixers::{MixerConfig, RetentionConfig};

use crate::families::fla;
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "retnet", mechanism: "retention", paper: "Sun et al. 2023", describe };

fn describe(fields: &Fields) -> Result<Description, Error> {
    let defaults = fla::Defaults { layers: 24, hidden_ratio: 2.0 };
    fla::describe(fields, "retnet", &defaults, |hidden, _| {
        let (gated, norm) = fla::gated_norm(fields)?;
        // The library's model never enables the short convolution of its layer, whatever the configuration says.
        let heads = fla::heads(fields, hidden, (8, 1.0, 2.0))?;
        if heads.key % 2 != 0 {
            return Err(fields.error(format!("field `num_heads`: heads of {} channels cannot be rotated", heads.key)));
        }
        Ok(MixerConfig::Retention(RetentionConfig {
            rotary: fla::rotary(heads.key, 10_000.0),
            heads,
            features: fla::feature_map(fields)?,
            gated,
            norm,
        }))
    })
}
