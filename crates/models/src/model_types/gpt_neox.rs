//! `gpt_neox`: attention parallel to the feed-forward layer, rotary positions of a part of each head. Black et al. 2022.

use longreach_nn::mixers::{AttentionConfig, AttentionNames, Fused, MixerConfig};
use longreach_nn::{
    Activation, Bias, BlockConfig, BranchConfig, DecoderConfig, DecoderNames, FeedForwardConfig, Layout, NamedNorm,
    NormConfig, OperationConfig,
};
use serde_json::json;

use crate::description::activation;
use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "gpt_neox", mechanism: "dense", paper: "Black et al. 2022", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let mut fields = f.clone();
    for (name, older, default) in
        [("partial_rotary_factor", "rotary_pct", 0.25), ("rope_theta", "rotary_emb_base", 10_000.0)]
    {
        fields.set_default(name, json!(f.number(older, default)?));
    }
    let defaults =
        Defaults { vocabulary: 50_432, hidden: 6144, layers: 44, heads: 64, inner: 24_576, partial: true, ..LLAMA };
    let defaults = Defaults { eos: 2, ..defaults };
    let model = Reader::new(&fields, defaults)?;
    let norm = NormConfig::Layer(f.number("layer_norm_eps", 1e-5)?, Bias::Yes);
    let bias = f.flag("attention_bias", true)?;
    let mixer = MixerConfig::Attention(AttentionConfig {
        rotary: Some(model.rotary("full_attention")?),
        bias,
        out_bias: bias,
        names: AttentionNames { q: "query_key_value", out: "dense", ..AttentionNames::LLAMA },
        fused: Fused::Heads,
        ..model.attention()?
    });
    let feed_forward = OperationConfig::FeedForward(FeedForwardConfig {
        inner: f.size("intermediate_size", defaults.inner)?,
        activation: activation(f, "hidden_act", Activation::Gelu)?,
        gated: false,
        bias: Bias::Yes,
        names: ["dense_h_to_4h", "dense_4h_to_h"],
        layout: Layout::Same,
    });
    let branches = vec![
        BranchConfig::mixer("attention", mixer).before("input_layernorm", norm),
        BranchConfig::new("mlp", feed_forward).before("post_attention_layernorm", norm),
    ];
    let block = match f.flag("use_parallel_residual", true)? {
        true => BlockConfig::new(vec![BranchConfig::new("", OperationConfig::Parallel(branches))]),
        false => BlockConfig::new(branches),
    };
    let Description { decoder, eos, .. } = model.describe("gpt_neox", vec![block; model.layers])?;
    let decoder = DecoderConfig {
        last_norm: Some(NamedNorm::new("final_layer_norm", norm)),
        names: DecoderNames::new(["gpt_neox", "embed_in", "layers", "embed_out"]),
        ..decoder
    };
    Ok(Description::new("gpt_neox", decoder, eos))
}
