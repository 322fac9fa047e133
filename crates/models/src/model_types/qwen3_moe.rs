//! `qwen3_moe`: as `qwen3`, with mixtures of experts in place of most feed-forward layers. Yang et al. 2025.

use longreach_nn::mixers::{AttentionConfig, QkNorm, Reach};
use longreach_nn::{ExpertsConfig, GatedFeedForwardConfig, OperationConfig, RouterConfig};

use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "qwen3_moe", mechanism: "dense", paper: "Yang et al. 2025", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let defaults = Defaults {
        vocabulary: 151_936,
        hidden: 2048,
        layers: 24,
        groups: Some(4),
        inner: 6144,
        longest: 32_768,
        eos: 151_645,
        ..LLAMA
    };
    let model = Reader::new(f, defaults)?;
    let attention = AttentionConfig {
        rotary: Some(model.rotary("full_attention")?),
        reach: if f.flag("use_sliding_window", false)? { model.window(Some(4096))? } else { Reach::Full },
        qk_norm: Some(QkNorm::Head(model.rms())),
        ..model.attention()?
    };
    let dense = OperationConfig::Gated(model.feed_forward()?);
    let experts = if f.given("num_experts") { "num_experts" } else { "num_local_experts" };
    let size = [f.size(experts, 128)?, f.size("num_experts_per_tok", 8)?];
    let router = RouterConfig::softmax("gate", f.flag("norm_topk_prob", false)?);
    let expert = GatedFeedForwardConfig { inner: f.size("moe_intermediate_size", 768)?, ..model.feed_forward()? };
    let experts = OperationConfig::Experts(ExpertsConfig::new(size, router, expert));
    let (without, every) = (f.ids("mlp_only_layers")?, f.size("decoder_sparse_step", 1)?);
    let block = |i: usize| {
        let sparse = !without.contains(&(i as u32)) && (i + 1).is_multiple_of(every);
        model.block(attention.clone(), "mlp", if sparse { experts.clone() } else { dense.clone() })
    };
    model.describe("qwen3_moe", (0..model.layers).map(block).collect())
}
