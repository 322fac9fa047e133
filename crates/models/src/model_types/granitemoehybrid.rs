//! `granitemoehybrid`: Granite 4, a few layers of attention among many of Mamba-2, with scaled embeddings, branches and
//! logits. IBM 2025.

use longreach_nn::mixers::{AttentionConfig, MixerConfig};
use longreach_nn::{
    Activation, Bias, BlockConfig, BranchConfig, DecoderConfig, ExpertsConfig, GatedFeedForwardConfig, OperationConfig,
    RouterConfig,
};

use crate::description::activation;
use crate::families::experts::stacked;
use crate::families::hybrid::{as_many, kinds, mamba2};
use crate::families::llama::{LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields, Rewrite, Step};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "granitemoehybrid", mechanism: "mamba2", paper: "IBM 2025", describe };

fn describe(f: &Fields) -> Result<Description, Error> {
    let model = Reader::new(f, LLAMA)?;
    let rotary = match f.text("position_embedding_type")? {
        Some("rope") => Some(model.rotary("full_attention")?),
        None | Some("nope") => None,
        Some(other) => {
            return Err(
                f.error(format!("field `position_embedding_type`: want \"rope\" or \"nope\", found \"{other}\""))
            );
        }
    };
    let of_scores = f.number("attention_multiplier", 1.0)? as f32;
    let attention = AttentionConfig { rotary, scale: Some(of_scores), ..model.attention()? };
    let mamba = mamba2(f, model.hidden, 128, model.norm_eps)?;
    let inner = f.size("shared_intermediate_size", 1024)?;
    let feed_forward = OperationConfig::Gated(GatedFeedForwardConfig {
        activation: activation(f, "hidden_act", Activation::Silu)?,
        names: ["gate_proj", "up_proj", "output_linear"].map(str::to_owned),
        ..GatedFeedForwardConfig::silu(inner)
    });
    let names = [("full_attention", true), ("attention", true), ("linear_attention", false), ("mamba", false)];
    let attends = match kinds(f, "layer_types", &names)? {
        Some(kinds) => kinds,
        None => kinds(f, "layers_block_type", &names)?.unwrap_or_else(|| vec![false; model.layers]),
    };
    as_many(f, "layer_types", &attends, model.layers)?;
    let scale = f.number("residual_multiplier", 1.0)? as f32;
    let shared = BranchConfig::new("shared_mlp", feed_forward);
    let count = f.count("num_local_experts", 8)?;
    let expert = GatedFeedForwardConfig {
        bias: Bias::No,
        ..GatedFeedForwardConfig { inner: f.size("intermediate_size", 11_008)?, ..model.feed_forward()? }
    };
    let after = if count == 0 {
        shared
    } else {
        let router = RouterConfig::softmax("router.layer", true);
        let experts = ExpertsConfig::new([count, f.size("num_experts_per_tok", 2)?], router, expert.clone());
        let experts = BranchConfig::new("block_sparse_moe", OperationConfig::Experts(experts));
        BranchConfig::new("", OperationConfig::Parallel(vec![experts, shared]))
    };
    let after = BranchConfig { scale, ..after.before("post_attention_layernorm", model.rms()) };
    let block = |attends: bool| {
        let mixer = match attends {
            true => BranchConfig::mixer("self_attn", MixerConfig::Attention(attention.clone())),
            false => BranchConfig::mixer("mamba", mamba.clone()),
        };
        let mixer = BranchConfig { scale, ..mixer.before("input_layernorm", model.rms()) };
        BlockConfig::new(vec![mixer, after.clone()])
    };
    let blocks = attends.into_iter().map(block).collect();
    let Description { decoder, eos, .. } = model.describe("granitemoehybrid", blocks)?;
    let divisor = f.number("logits_scaling", 1.0)?;
    if divisor <= 0.0 {
        return Err(f.error(format!("field `logits_scaling`: want a number above 0, found {divisor}")));
    }
    let decoder = DecoderConfig {
        embedding_scale: f.number("embedding_multiplier", 1.0)? as f32,
        logits_scale: (1.0 / divisor) as f32,
        ..decoder
    };
    let stored = ["input_linear.weight", "output_linear.weight"];
    let mut rewrites = stacked("model.layers.*.block_sparse_moe", "experts", count, &expert, stored);
    for (name, rows) in [("gate_proj", 0..inner), ("up_proj", inner..2 * inner)] {
        let [ours, file] = [name, "input_linear"].map(|name| format!("model.layers.*.shared_mlp.{name}.weight"));
        rewrites.push(Rewrite::new(ours, file, [Step::Rows(rows, 2 * inner)]));
    }
    Ok(Description { rewrites: rewrites.into(), ..Description::new("granitemoehybrid", decoder, eos) })
}
