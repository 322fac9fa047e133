//! `mistral`: as `llama`, with a window in all layers. Jiang et al. 2023.

use longreach_nn::OperationConfig;
use longreach_nn::mixers::AttentionConfig;

use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "mistral", mechanism: "window", paper: "Jiang et al. 2023", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let defaults = Defaults { groups: Some(8), inner: 14_336, longest: 131_072, ..LLAMA };
    let model = Reader::new(f, defaults)?;
    let attention = AttentionConfig {
        rotary: Some(model.rotary("sliding_attention")?),
        reach: model.window(Some(4096))?,
        bias: false,
        out_bias: false,
        ..model.attention()?
    };
    let feed_forward = OperationConfig::Gated(model.feed_forward()?);
    let block = model.block(attention, "mlp", feed_forward);
    model.describe("mistral", vec![block; model.layers])
}
