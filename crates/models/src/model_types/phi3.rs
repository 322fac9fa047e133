//! `phi3`: as `llama`, with fused projections and, for long contexts, LongRoPE. Abdin et al. 2024.

use longreach_nn::mixers::{AttentionConfig, AttentionNames, Fused};
use longreach_nn::{Activation, Bias, FeedForwardConfig, Layout, OperationConfig};
use serde_json::json;

use crate::description::activation;
use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "phi3", mechanism: "dense", paper: "Abdin et al. 2024", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let mut fields = f.clone();
    fields.set_default("original_max_position_embeddings", json!(4096));
    let defaults = Defaults {
        vocabulary: 32_064,
        hidden: 3072,
        inner: 8192,
        norm_eps: 1e-5,
        longest: 4096,
        eos: 32_000,
        partial: true,
        ..LLAMA
    };
    let model = Reader::new(&fields, defaults)?;
    let attention = AttentionConfig {
        rotary: Some(model.rotary("full_attention")?),
        reach: model.window(None)?,
        bias: false,
        out_bias: false,
        names: AttentionNames { q: "qkv_proj", ..AttentionNames::LLAMA },
        fused: Fused::Parts,
        ..model.attention()?
    };
    let feed_forward = OperationConfig::FeedForward(FeedForwardConfig {
        inner: f.size("intermediate_size", defaults.inner)?,
        activation: activation(f, "hidden_act", Activation::Silu)?,
        gated: true,
        bias: Bias::No,
        names: ["gate_up_proj", "down_proj"],
        layout: Layout::Same,
    });
    let block = model.block(attention, "mlp", feed_forward);
    model.describe("phi3", vec![block; model.layers])
}
