//! `gemma3_text`, and the text model of `gemma3`: windows in five of six layers, with rotary positions of their own, and
//! norms of queries and keys. Gemma Team 2025.

use longreach_attention::rotary::{Rotary, Scaling};
use longreach_nn::mixers::{AttentionConfig, QkNorm, Reach};
use serde_json::json;

use crate::families::composite::text_config;
use crate::families::gemma::{GEMMA, Gemma};
use crate::families::llama::{Defaults, Reader};
use crate::{Architecture, Description, Error, Fields};

/// The text model alone.
pub(crate) const TEXT: Architecture = Architecture {
    model_type: "gemma3_text",
    mechanism: "window",
    paper: "Gemma Team 2025",
    describe: |f| describe(f, "gemma3_text"),
};

/// A model of text and images, of which the text model is used.
pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "gemma3", mechanism: "window", paper: "Gemma Team 2025", describe: composite };

/// Describes the text model of `text_config`; what it leaves out may stand outside.
fn composite(f: &Fields) -> Result<Description, Error> {
    let mut text = text_config(f)?;
    for (name, default) in [("vocab_size", 262_208), ("num_attention_heads", 8), ("num_key_value_heads", 4)] {
        text.set_default(name, json!(default));
    }
    // The composite model does not apply it.
    text.set("final_logit_softcapping", serde_json::Value::Null);
    describe(&text, "gemma3")
}

fn describe(f: &Fields, model_type: &'static str) -> Result<Description, Error> {
    if f.flag("use_bidirectional_attention", false)? {
        let message = "field `use_bidirectional_attention`: attention in both directions is that of an encoder: it cannot generate text, and embedding with it is not supported";
        return Err(f.error(message));
    }
    let defaults =
        Defaults { vocabulary: 262_208, heads: 8, inner: 9216, layers: 26, theta: 1e6, longest: 131_072, ..GEMMA };
    let gemma = Gemma::new(Reader::new(f, defaults)?)?;
    let model = &gemma.reader;
    let window = model.window(Some(4096))?;
    let far = model.rotary("full_attention")?;
    // Before transformers 5 the scaling was that of the full layers alone.
    let near = match f.get("rope_parameters") {
        Some(_) => model.rotary("sliding_attention")?,
        None => {
            let theta = f.number("rope_local_base_freq", 10_000.0)?;
            Rotary { theta, scaling: Scaling::Default, ..far.clone() }
        }
    };
    let pattern = f.size("sliding_window_pattern", 6)?;
    let block = |sliding: bool| {
        let attention = AttentionConfig {
            rotary: Some(if sliding { near.clone() } else { far.clone() }),
            reach: if sliding { window } else { Reach::Full },
            qk_norm: Some(QkNorm::Head(gemma.norm())),
            ..gemma.attention()?
        };
        gemma.block(attention)
    };
    let blocks = model.sliding(|i| (i + 1) % pattern != 0)?.into_iter().map(block).collect::<Result<_, Error>>()?;
    gemma.describe(model_type, blocks, None)
}
