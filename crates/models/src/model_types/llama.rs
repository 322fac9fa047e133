//! `llama`: grouped-query attention with rotary positions. Touvron et al. 2023.

use longreach_nn::OperationConfig;
use longreach_nn::mixers::AttentionConfig;

use crate::families::llama::{LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "llama", mechanism: "dense", paper: "Touvron et al. 2023", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let model = Reader::new(f, LLAMA)?;
    let attention = AttentionConfig { rotary: Some(model.rotary("full_attention")?), ..model.attention()? };
    let feed_forward = OperationConfig::Gated(model.feed_forward()?);
    let block = model.block(attention, "mlp", feed_forward);
    model.describe("llama", vec![block; model.layers])
}
