//! `gated_deltanet`: Yang et al. 2025, as stored by flash-linear-attention.

use longreach_nn::mixers::{GatedDeltaConfig, MixerConfig};

use crate::families::fla::{self, grouped_heads};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "gated_deltanet", mechanism: "gated_delta", paper: "Yang et al. 2025", describe };

fn describe(fields: &Fields) -> Result<Description, Error> {
    let defaults = fla::Defaults { layers: 21, hidden_ratio: 4.0 };
    fla::describe(fields, "gated_deltanet", &defaults, |hidden, _| {
        Ok(MixerConfig::GatedDelta(GatedDeltaConfig {
            heads: grouped_heads(fields, hidden, (256, 6, 2.0))?,
            up_to_two: fields.flag("allow_neg_eigval", false)?,
            gated: fields.flag("use_gate", true)?,
            cyclic: false,
        }))
    })
}
