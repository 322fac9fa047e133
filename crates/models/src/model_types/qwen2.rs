//! `qwen2`: as `llama`, with biases of queries, keys and values, and windows in the later layers. Yang et al. 2024.

use longreach_nn::OperationConfig;
use longreach_nn::mixers::AttentionConfig;

use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "qwen2", mechanism: "dense", paper: "Yang et al. 2024", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let defaults =
        Defaults { vocabulary: 151_936, groups: Some(32), inner: 22_016, longest: 32_768, eos: 151_643, ..LLAMA };
    let model = Reader::new(f, defaults)?;
    let feed_forward = OperationConfig::Gated(model.feed_forward()?);
    let rotary = model.rotary("full_attention")?;
    let block = |reach| {
        let attention =
            AttentionConfig { rotary: Some(rotary.clone()), reach, bias: true, out_bias: false, ..model.attention()? };
        Ok(model.block(attention, "mlp", feed_forward.clone()))
    };
    let blocks = model.windows_from(28)?.into_iter().map(block).collect::<Result<_, Error>>()?;
    model.describe("qwen2", blocks)
}
