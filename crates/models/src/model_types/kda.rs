//! `kda`: Kimi Team 2025, as stored by flash-linear-attention.

use longreach_nn::mixers::{GateProjection, KdaConfig, MixerConfig};

use crate::families::fla;
use crate::families::fla::grouped_heads;
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "kda", mechanism: "kda", paper: "Kimi Team 2025", describe };

fn describe(fields: &Fields) -> Result<Description, Error> {
    let defaults = fla::Defaults { layers: 24, hidden_ratio: 4.0 };
    let lower_bound = fields.get("lower_bound").map(|_| fields.number("lower_bound", 0.0)).transpose()?;
    if let Some(bound) = lower_bound
        && bound >= 0.0
    {
        return Err(fields.error(format!("field `lower_bound`: want a number below 0, found {bound}")));
    }
    if fields.flag("safe_gate", false)? && lower_bound.is_none() {
        return Err(fields.error("field `safe_gate` is true, which requires a `lower_bound`"));
    }
    fla::describe(fields, "kda", &defaults, |hidden, _| {
        Ok(MixerConfig::Kda(KdaConfig {
            heads: grouped_heads(fields, hidden, (128, 16, 1.0))?,
            up_to_two: fields.flag("allow_neg_eigval", false)?,
            lower_bound,
            gates: GateProjection::LowRank { bias: true },
        }))
    })
}
