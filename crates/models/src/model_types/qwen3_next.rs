//! `qwen3_next`: the gated delta rule with gated attention in every fourth layer, and mixtures of experts. Qwen Team 2025.

use longreach_nn::OperationConfig;
use serde_json::json;

use crate::families::delta::{Projected, qwen, qwen_experts};
use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "qwen3_next", mechanism: "gated_delta", paper: "Qwen Team 2025", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let defaults = Defaults {
        vocabulary: 151_936,
        hidden: 2048,
        layers: 48,
        heads: 16,
        groups: Some(2),
        head_dim: Some(256),
        inner: 5632,
        longest: 32_768,
        eos: 151_645,
        partial: true,
        ..LLAMA
    };
    let mut fields = f.clone();
    fields.set_default("partial_rotary_factor", json!(0.25));
    let (f, model) = (&fields, Reader::new(&fields, defaults)?);
    let dense = OperationConfig::Gated(model.feed_forward()?);
    let experts = qwen_experts(&model, [512, 10], f.flag("norm_topk_prob", true)?)?;
    let (without, every) = (f.ids("mlp_only_layers")?, f.size("decoder_sparse_step", 1)?);
    qwen(&model, "qwen3_next", Projected::ByHead, |i| {
        let sparse = !without.contains(&(i as u32)) && (i + 1).is_multiple_of(every);
        Ok(if sparse { experts.clone() } else { dense.clone() })
    })
}
