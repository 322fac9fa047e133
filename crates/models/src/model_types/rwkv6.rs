//! `rwkv6`: Peng et al. 2024 (Finch), as stored by flash-linear-attention.

use longreach_nn::ChannelMixNames;
use longreach_nn::mixers::{MixerConfig, Rwkv6Config};

use crate::families::fla;
use crate::families::rwkv::skeleton;
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "rwkv6", mechanism: "rwkv6", paper: "Peng et al. 2024", describe };

const CHANNEL_MIX: ChannelMixNames = ChannelMixNames {
    mix_key: "key.mu",
    key: "key.linear",
    receptance: Some(["receptance.mu", "receptance.linear"]),
    value: "value",
    kept: false,
    wide: false,
};

fn describe(fields: &Fields) -> Result<Description, Error> {
    skeleton(fields, "rwkv6", 3.5, CHANNEL_MIX, |hidden, _| {
        let heads = fla::heads(fields, hidden, (4, 0.5, 1.0))?;
        Ok(MixerConfig::Rwkv6(Rwkv6Config {
            hidden,
            heads: heads.heads,
            key: heads.key,
            value: heads.value,
            mix_rank: fields.size("proj_low_rank_dim", 32)?,
            decay_rank: fields.size("gate_low_rank_dim", 64)?,
            norm_eps: fields.number("norm_eps", 1e-5)?,
            slots: Rwkv6Config::SLOTS,
        }))
    })
}
