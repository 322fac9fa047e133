//! `minimax`: lightning attention, with softmax attention in some layers, mixtures of experts, and normed residuals.
//! MiniMax-01 2025.

use longreach_nn::mixers::{AttentionConfig, LightningConfig, LightningInputs, MixerConfig};
use longreach_nn::{
    BlockConfig, BranchConfig, ExpertsConfig, GatedFeedForwardConfig, OperationConfig, ResidualConfig, RouterConfig,
};
use serde_json::Value;

use crate::families::hybrid::{as_many, kinds};
use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "minimax", mechanism: "lightning", paper: "MiniMax 2025", describe };

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
    let expert = model.feed_forward()?;
    let lightning = |layer: usize| {
        let sizes = [attention.heads, attention.head_dim];
        MixerConfig::Lightning(LightningConfig {
            inputs: LightningInputs::Joined(expert.activation),
            // ε is fixed, whatever that of the other norms.
            ..LightningConfig::minimax(model.hidden, sizes, (layer, model.layers), 1e-6)
        })
    };
    let named = if f.given("num_experts") { "num_experts" } else { "num_local_experts" };
    let size = [f.size(named, 8)?, f.size("num_experts_per_tok", 2)?];
    let expert = GatedFeedForwardConfig { names: ["w1", "w3", "w2"].map(str::to_owned), ..expert.clone() };
    let experts = ExpertsConfig::new(size, RouterConfig::softmax("gate", true), expert);
    let experts = OperationConfig::Experts(experts);
    let factors = |kind: &str, older: &str| {
        let factor = |end: &str| match f.get(&format!("{kind}_{end}_factor")) {
            Some(_) => f.number(&format!("{kind}_{end}_factor"), 1.0),
            None => f.number(&format!("layernorm_{older}_{end}"), 1.0),
        };
        Ok::<_, Error>([factor("alpha")? as f32, factor("beta")? as f32])
    };
    let full = factors("full_attn", "full_attention")?;
    let linear = factors("linear_attn", "linear_attention")?;
    let mlp = factors("mlp", "mlp")?;
    let weighed = |branch: BranchConfig, name: &str, [alpha, beta]: [f32; 2]| BranchConfig {
        scale: beta,
        residual: ResidualConfig::Normed(alpha),
        ..branch.before(name, model.rms())
    };
    let attends = layers(f, &model)?;
    let block = |(i, attends): (usize, bool)| {
        let (mixer, factors) =
            if attends { (MixerConfig::Attention(attention.clone()), full) } else { (lightning(i), linear) };
        BlockConfig::new(vec![
            weighed(BranchConfig::mixer("self_attn", mixer), "input_layernorm", factors),
            weighed(BranchConfig::new("block_sparse_moe", experts.clone()), "post_attention_layernorm", mlp),
        ])
    };
    model.describe("minimax", attends.into_iter().enumerate().map(block).collect())
}

/// Which layers have softmax attention: those of `layer_types`, or of the older `attn_type_list`, or every other one.
fn layers(f: &Fields, model: &Reader<'_>) -> Result<Vec<bool>, Error> {
    let (name, found) = match kinds(f, "layer_types", &[("full_attention", true), ("linear_attention", false)])? {
        Some(kinds) => ("layer_types", kinds),
        None => match f.get("attn_type_list") {
            Some(list) => {
                let kind = |kind: &Value| kind.as_u64().filter(|kind| *kind < 2).map(|kind| kind == 1);
                let kinds: Option<Vec<bool>> = list.as_array().and_then(|list| list.iter().map(kind).collect());
                let wrong = || f.error(format!("field `attn_type_list`: want a list of 0 and 1, found {list}"));
                ("attn_type_list", kinds.ok_or_else(wrong)?)
            }
            None => ("layer_types", (0..model.layers).map(|i| i % 2 == 0).collect()),
        },
    };
    as_many(f, name, &found, model.layers)?;
    Ok(found)
}
