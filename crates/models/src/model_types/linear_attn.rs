//! `linear_attn`: Katharopoulos et al. 2020, as stored by flash-linear-attention.

use longreach_attention::linear::linear_attention::Map;
use longreach_nn::mixers::{Features, LinearAttentionConfig, MixerConfig};

use crate::families::fla;
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture = Architecture {
    model_type: "linear_attn",
    mechanism: "linear_attention",
    paper: "Katharopoulos et al. 2020",
    describe,
};

/// The constant that the library adds to sums of weights.
const EPSILON: f64 = 1e-10;

fn describe(fields: &Fields) -> Result<Description, Error> {
    let defaults = fla::Defaults { layers: 24, hidden_ratio: 4.0 };
    let features = match fields.text("feature_map")? {
        None | Some("elementwise_product") => Features::Product,
        Some("hedgehog") => Features::Hedgehog,
        Some("t2r") => Features::T2r,
        Some("dpfp") => Features::Dpfp,
        Some("elu") => Features::Fixed(Map::Elu),
        Some("relu") => Features::Fixed(Map::Relu),
        Some("identity") => Features::Fixed(Map::Identity),
        Some(other) => {
            let want = "elementwise_product, hedgehog, t2r, dpfp, elu, relu or identity";
            return Err(fields.error(format!("field `feature_map`: want {want}, found \"{other}\"")));
        }
    };
    fla::describe(fields, "linear_attn", &defaults, |hidden, _| {
        Ok(MixerConfig::LinearAttention(LinearAttentionConfig {
            heads: fla::heads(fields, hidden, (4, 1.0, 1.0))?,
            features,
            tied: fields.flag("tie_feature_map_qk", false)?,
            by_sum: [fields.flag("norm_q", false)?, fields.flag("norm_k", false)?],
            normalize: fields.flag("norm_feature_map", false)?.then_some(EPSILON),
        }))
    })
}
