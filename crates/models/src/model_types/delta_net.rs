//! `delta_net`: Yang et al. 2024, as stored by flash-linear-attention.

use longreach_nn::mixers::parts::{Heads, Pointwise};
use longreach_nn::mixers::{DeltaRuleConfig, MixerConfig};

use crate::families::fla;
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "delta_net", mechanism: "delta_rule", paper: "Yang et al. 2024", describe };

fn describe(fields: &Fields) -> Result<Description, Error> {
    let defaults = fla::Defaults { layers: 24, hidden_ratio: 4.0 };
    let features = match fields.text("qk_activation")? {
        None | Some("silu") => Pointwise::Silu,
        Some("relu") => Pointwise::Relu,
        Some("elu") => Pointwise::Elu1,
        Some("identity") => Pointwise::Identity,
        Some(other) => {
            let want = "silu, relu, elu or identity";
            return Err(fields.error(format!("field `qk_activation`: want {want}, found \"{other}\"")));
        }
    };
    let by_sum = match fields.text("qk_norm")? {
        None | Some("l2") => false,
        Some("sum") => true,
        Some(other) => return Err(fields.error(format!("field `qk_norm`: want l2 or sum, found \"{other}\""))),
    };
    fla::describe(fields, "delta_net", &defaults, |hidden, _| {
        let heads = fla::heads(fields, hidden, (16, 1.0, 1.0))?;
        Ok(MixerConfig::DeltaRule(DeltaRuleConfig {
            heads: Heads { groups: heads.heads, conv: fla::conv(fields, true)?, ..heads },
            features,
            by_sum,
            learned_beta: fields.flag("use_beta", true)?,
            up_to_two: fields.flag("allow_neg_eigval", false)?,
            gated: fields.flag("use_gate", false)?,
        }))
    })
}
