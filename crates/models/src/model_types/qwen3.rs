//! `qwen3`: as `llama`, with norms of queries and keys, and windows in the later layers. Yang et al. 2025.

use longreach_nn::OperationConfig;
use longreach_nn::mixers::{AttentionConfig, QkNorm};

use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "qwen3", mechanism: "dense", paper: "Yang et al. 2025", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let defaults = Defaults {
        vocabulary: 151_936,
        groups: Some(32),
        head_dim: Some(128),
        inner: 22_016,
        longest: 32_768,
        eos: 151_645,
        ..LLAMA
    };
    let model = Reader::new(f, defaults)?;
    let feed_forward = OperationConfig::Gated(model.feed_forward()?);
    let rotary = model.rotary("full_attention")?;
    let block = |reach| {
        let qk_norm = Some(QkNorm::Head(model.rms()));
        let attention = AttentionConfig { rotary: Some(rotary.clone()), reach, qk_norm, ..model.attention()? };
        Ok(model.block(attention, "mlp", feed_forward.clone()))
    };
    let blocks = model.windows_from(28)?.into_iter().map(block).collect::<Result<_, Error>>()?;
    model.describe("qwen3", blocks)
}
