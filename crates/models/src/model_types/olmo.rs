//! `olmo2` and `olmo3`: norms after each operation only, and of queries and keys over all heads; `olmo3` has windows in
//! three of four layers. OLMo Team 2024, 2025.

use longreach_attention::rotary::{Rotary, Scaling};
use longreach_nn::mixers::{AttentionConfig, QkNorm, Reach};
use longreach_nn::{BlockConfig, BranchConfig, OperationConfig};

use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const OLMO2: Architecture = Architecture {
    model_type: "olmo2",
    mechanism: "dense",
    paper: "OLMo Team 2024",
    describe: |f| describe(f, "olmo2", false),
};

pub(crate) const OLMO3: Architecture = Architecture {
    model_type: "olmo3",
    mechanism: "window",
    paper: "OLMo Team 2025",
    describe: |f| describe(f, "olmo3", true),
};

fn describe(f: &Fields, model_type: &'static str, windows: bool) -> Result<Description, Error> {
    let defaults = Defaults { vocabulary: 50_304, norm_eps: 1e-5, eos: 50_279, ..LLAMA };
    let model = Reader::new(f, defaults)?;
    let feed_forward = OperationConfig::Gated(model.feed_forward()?);
    let far = model.rotary("full_attention")?;
    // The scaling is that of the full layers alone.
    let near = match f.get("rope_parameters") {
        Some(_) => model.rotary("sliding_attention")?,
        None => Rotary { scaling: Scaling::Default, ..far.clone() },
    };
    let window = if windows { model.window(Some(4096))? } else { Reach::Full };
    let block = |sliding: bool| {
        let attention = AttentionConfig {
            rotary: Some(if sliding { near.clone() } else { far.clone() }),
            reach: if sliding { window } else { Reach::Full },
            qk_norm: Some(QkNorm::Whole(model.rms())),
            ..model.attention()?
        };
        let attention = model.mixer(attention).after("post_attention_layernorm", model.rms());
        let feed_forward = BranchConfig::new("mlp", feed_forward.clone());
        let feed_forward = feed_forward.after("post_feedforward_layernorm", model.rms());
        Ok(BlockConfig::new(vec![attention, feed_forward]))
    };
    let sliding = if windows { model.sliding(|i| (i + 1) % 4 != 0)? } else { vec![false; model.layers] };
    let blocks = sliding.into_iter().map(block).collect::<Result<_, Error>>()?;
    model.describe(model_type, blocks)
}
