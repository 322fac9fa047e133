//! `rwkv7`: Peng et al. 2025 (Goose), as stored by flash-linear-attention.

use longreach_nn::ChannelMixNames;
use longreach_nn::mixers::{MixerConfig, Rwkv7Config};

use crate::families::fla;
use crate::families::rwkv::skeleton;
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "rwkv7", mechanism: "rwkv7", paper: "Peng et al. 2025", describe };

const CHANNEL_MIX: ChannelMixNames =
    ChannelMixNames { mix_key: "x_k", key: "key", receptance: None, value: "value", kept: false, wide: false };

fn describe(fields: &Fields) -> Result<Description, Error> {
    let hidden = fields.size("hidden_size", 2048)?;
    let values = fields.get("value_dim");
    let whole = |v: &serde_json::Value| v.as_u64() == Some(hidden as u64);
    if values.is_some_and(|v| !v.as_array().map_or(whole(v), |list| list.iter().all(whole))) {
        let found = values.map(ToString::to_string).unwrap_or_default();
        return Err(fields.error(format!("field `value_dim`: want {hidden} in every layer, found {found}")));
    }
    let head_dim = match (fields.some_size("head_dim")?, fields.some_size("num_heads")?) {
        (None, Some(heads)) => fla::divided(fields, "num_heads", hidden, heads)?,
        (width, _) => {
            let width = width.unwrap_or(64);
            fla::divided(fields, "head_dim", hidden, width)?;
            width
        }
    };
    // The default ranks are proportional to the square root of the width.
    let rank = |name: &str, default: usize, factor: f64| match fields.given(name) {
        false => Ok(default),
        true => {
            let by_width = (factor * (hidden as f64).sqrt() / 32.0).round_ties_even() as usize * 32;
            fields.size(name, by_width.max(32))
        }
    };
    let wide = head_dim as f64 / 64.0;
    let ranks = [
        rank("decay_low_rank_dim", 64, 2.5 * wide)?,
        rank("gate_low_rank_dim", 128, 5.0)?,
        rank("a_low_rank_dim", 64, 2.5 * wide)?,
        rank("v_low_rank_dim", 16, 1.7 * wide)?,
    ];
    skeleton(fields, "rwkv7", 4.0, CHANNEL_MIX, |hidden, i| {
        Ok(MixerConfig::Rwkv7(Rwkv7Config {
            hidden,
            head_dim,
            ranks,
            first: i == 0,
            norm_eps: head_dim as f64 * fields.number("norm_eps", 1e-5)?,
            plain_lengths: !fields.flag("fuse_norm", true)?,
        }))
    })
}
