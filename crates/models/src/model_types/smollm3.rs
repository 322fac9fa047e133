//! `smollm3`: as `llama`, with layers without positions. Bakouch et al. 2025.

use longreach_nn::OperationConfig;
use longreach_nn::mixers::{AttentionConfig, Reach};

use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "smollm3", mechanism: "dense", paper: "Bakouch et al. 2025", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let defaults = Defaults {
        vocabulary: 128_256,
        hidden: 2048,
        layers: 36,
        heads: 16,
        groups: Some(4),
        inner: 11_008,
        theta: 2e6,
        longest: 32_768,
        tied: true,
        eos: 128_001,
        ..LLAMA
    };
    let model = Reader::new(f, defaults)?;
    let feed_forward = OperationConfig::Gated(model.feed_forward()?);
    let rotary = model.rotary("full_attention")?;
    // The list has 1 for layers with rotary positions.
    let rotates = match f.get("no_rope_layers") {
        Some(_) => f.ids("no_rope_layers")?.into_iter().map(|one| one != 0).collect(),
        None => {
            let interval = f.size("no_rope_layer_interval", 4)?;
            (0..model.layers).map(|i| (i + 1) % interval != 0).collect::<Vec<_>>()
        }
    };
    if rotates.len() != model.layers {
        let message = format!("field `no_rope_layers`: want {} numbers, found {}", model.layers, rotates.len());
        return Err(f.error(message));
    }
    let on = f.flag("use_sliding_window", false)?;
    let window = if on { model.window(None)? } else { Reach::Full };
    let sliding = model.sliding(|i| on && !rotates[i])?;
    let block = |(rotates, sliding): (bool, bool)| {
        let attention = AttentionConfig {
            rotary: rotates.then(|| rotary.clone()),
            reach: if sliding { window } else { Reach::Full },
            ..model.attention()?
        };
        Ok(model.block(attention, "mlp", feed_forward.clone()))
    };
    let blocks = rotates.iter().copied().zip(sliding).map(block).collect::<Result<_, Error>>()?;
    model.describe("smollm3", blocks)
}
