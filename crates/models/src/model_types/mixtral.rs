//! `mixtral`: as `mistral`, with a mixture of experts in place of the feed-forward layer. Jiang et al. 2024.

use longreach_nn::mixers::AttentionConfig;
use longreach_nn::{ExpertsConfig, GatedFeedForwardConfig, OperationConfig, RouterConfig};

use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "mixtral", mechanism: "dense", paper: "Jiang et al. 2024", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let defaults = Defaults { groups: Some(8), inner: 14_336, norm_eps: 1e-5, theta: 1e6, longest: 131_072, ..LLAMA };
    let model = Reader::new(f, defaults)?;
    let attention = AttentionConfig {
        rotary: Some(model.rotary("full_attention")?),
        reach: model.window(None)?,
        bias: false,
        out_bias: false,
        ..model.attention()?
    };
    let size = [f.size("num_local_experts", 8)?, f.size("num_experts_per_tok", 2)?];
    let expert = GatedFeedForwardConfig { names: ["w1", "w3", "w2"].map(str::to_owned), ..model.feed_forward()? };
    let experts = ExpertsConfig::new(size, RouterConfig::softmax("gate", true), expert);
    let experts = OperationConfig::Experts(experts);
    let block = model.block(attention, "block_sparse_moe", experts);
    model.describe("mixtral", vec![block; model.layers])
}
