//! `gemma2`: windows in every second layer, norms before and after each operation, soft-caps of scores and logits. Gemma
//! Team 2024.

use longreach_nn::mixers::{AttentionConfig, Reach};

use crate::families::gemma::{GEMMA, Gemma};
use crate::families::llama::{Defaults, Reader};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "gemma2", mechanism: "window", paper: "Gemma Team 2024", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let defaults = Defaults { heads: 8, inner: 9216, longest: 8192, layers: 26, ..GEMMA };
    let gemma = Gemma::new(Reader::new(f, defaults)?)?;
    let model = &gemma.reader;
    let (window, rotary) = (model.window(Some(4096))?, model.rotary("full_attention")?);
    let softcap = gemma.cap("attn_logit_softcapping", Some(50.0))?;
    let block = |sliding: bool| {
        let attention = AttentionConfig {
            rotary: Some(rotary.clone()),
            reach: if sliding { window } else { Reach::Full },
            softcap,
            ..gemma.attention()?
        };
        gemma.block(attention)
    };
    let blocks = model.sliding(|i| i % 2 == 0)?.into_iter().map(block).collect::<Result<_, Error>>()?;
    gemma.describe("gemma2", blocks, Some(30.0))
}
