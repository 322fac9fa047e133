//! Hybrids of attention and the gated delta rule, and how their checkpoints join projections.

use longreach_nn::mixers::parts::{Heads, Short};
use longreach_nn::mixers::{AttentionConfig, GatedDeltaConfig, MixerConfig, OutputGate, QkNorm};
use longreach_nn::{
    BlockConfig, BranchConfig, DecoderConfig, ExpertConfig, ExpertsConfig, GatedFeedForwardConfig, NamedNorm,
    NormConfig, OperationConfig, RouterConfig, SharedConfig,
};

use super::experts::stacked;
use super::fla::divided;
use super::hybrid::{as_many, kinds};
use super::llama::Reader;
use crate::description::silu;
use crate::{Description, Error, Fields, Rewrite, Step};

/// The gated delta rule of the fields `linear_*`, with a short convolution and a gated norm.
pub(crate) fn gated_delta(
    f: &Fields,
    hidden: usize,
    [heads, groups, key, value]: [usize; 4],
    norm_eps: f64,
) -> Result<GatedDeltaConfig, Error> {
    silu(f)?;
    let heads = f.size("linear_num_value_heads", heads)?;
    let groups = f.size("linear_num_key_heads", groups)?;
    divided(f, "linear_num_key_heads", heads, groups)?;
    let (key, value) = (f.size("linear_key_head_dim", key)?, f.size("linear_value_head_dim", value)?);
    let conv = Some(Short { taps: f.size("linear_conv_kernel_dim", 4)?, bias: false });
    let heads = Heads { hidden, heads, groups, key, value, conv, norm_eps, affine: true };
    Ok(GatedDeltaConfig { heads, up_to_two: false, gated: true, cyclic: false })
}

/// How a checkpoint joins the projections of the gated delta rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Projected {
    /// `in_proj_qkvz` and `in_proj_ba`, by heads of keys. Qwen3-Next.
    ByHead,
    /// `in_proj_qkv`, all queries before all keys before all values, and `in_proj_{z,b,a}`. Qwen3.5.
    ByKind,
}

const LINEAR: &str = "model.layers.*.linear_attn";

/// The tensors of Qwen's gated delta rule: see [`Projected`].
pub(crate) fn projections(h: &Heads, projected: Projected) -> Vec<Rewrite> {
    let (key, value, shared) = (h.groups * h.key, h.heads * h.value, h.heads / h.groups.max(1));
    let ours = |name: &str| format!("{LINEAR}.{name}.weight");
    let mut all =
        vec![Rewrite::new(ours("o_norm"), ours("norm"), []), Rewrite::new(ours("o_proj"), ours("out_proj"), [])];
    let all_channels = 2 * key + value;
    let kinds = [("q", 0..key), ("k", key..2 * key), ("v", 2 * key..all_channels)];
    for (name, rows) in kinds.clone() {
        let conv = ours(&format!("{name}_conv1d"));
        all.push(Rewrite::new(conv, ours("conv1d"), [Step::Rows(rows, all_channels)]));
    }
    match projected {
        Projected::ByKind => {
            for (name, rows) in kinds {
                let name = ours(&format!("{name}_proj"));
                all.push(Rewrite::new(name, ours("in_proj_qkv"), [Step::Rows(rows, all_channels)]));
            }
            let others = [("g_proj", "in_proj_z"), ("b_proj", "in_proj_b"), ("a_proj", "in_proj_a")];
            all.extend(others.map(|(name, file)| Rewrite::new(ours(name), ours(file), [])));
        }
        Projected::ByHead => {
            let mut joined = |file: &str, parts: &[(&str, usize)]| {
                let of = parts.iter().map(|(_, rows)| rows).sum();
                let mut from = 0;
                for (name, rows) in parts {
                    let step = Step::Within { groups: h.groups, rows: from..from + rows, of };
                    all.push(Rewrite::new(ours(name), ours(file), [step]));
                    from += rows;
                }
            };
            let wide = shared * h.value;
            joined("in_proj_qkvz", &[("q_proj", h.key), ("k_proj", h.key), ("v_proj", wide), ("g_proj", wide)]);
            joined("in_proj_ba", &[("b_proj", shared), ("a_proj", shared)]);
        }
    }
    all
}

/// Attention whose projection of queries contains, behind each head's query, the gate of the head's output.
pub(crate) fn gated_attention(attention: &AttentionConfig) -> Vec<Rewrite> {
    gated_attention_of("model.layers.*.self_attn.q_proj", attention.heads, attention.head_dim)
}

/// The same for `heads` heads of a width, where the file calls the projection `file`.
pub(crate) fn gated_attention_of(file: &str, heads: usize, width: usize) -> Vec<Rewrite> {
    let part = |name: &str, kind: &str, rows| {
        let ours = format!("model.layers.*.self_attn.{name}.{kind}");
        let step = Step::Within { groups: heads, rows, of: 2 * width };
        Rewrite::new(ours, format!("{file}.{kind}"), [step])
    };
    let both = |kind| [part("q_proj", kind, 0..width), part("gate_proj", kind, width..2 * width)];
    ["weight", "bias"].into_iter().flat_map(both).collect()
}

/// Qwen's hybrids: gated delta rule, gated attention in every fourth layer, dense layers or mixtures of experts.
pub(crate) fn qwen(
    model: &Reader<'_>,
    model_type: &'static str,
    projected: Projected,
    feed_forward: impl Fn(usize) -> Result<OperationConfig, Error>,
) -> Result<Description, Error> {
    let f = model.f;
    let norm = NormConfig::RmsPlusOne(model.norm_eps);
    let attention = AttentionConfig {
        rotary: Some(model.rotary("full_attention")?),
        qk_norm: Some(QkNorm::Head(norm)),
        gate: Some(OutputGate::Channel),
        ..model.attention()?
    };
    let delta = gated_delta(f, model.hidden, [32, 16, 128, 128], model.norm_eps)?;
    let every = f.size("full_attention_interval", 4)?;
    let attends = kinds(f, "layer_types", &[("full_attention", true), ("linear_attention", false)])?;
    let attends = attends.unwrap_or_else(|| (0..model.layers).map(|i| (i + 1).is_multiple_of(every)).collect());
    as_many(f, "layer_types", &attends, model.layers)?;
    let block = |(i, attends): (usize, &bool)| {
        let mixer = match attends {
            true => BranchConfig::mixer("self_attn", MixerConfig::Attention(attention.clone())),
            false => BranchConfig::mixer("linear_attn", MixerConfig::GatedDelta(delta.clone())),
        };
        let after = BranchConfig::new("mlp", feed_forward(i)?).before("post_attention_layernorm", norm);
        Ok(BlockConfig::new(vec![mixer.before("input_layernorm", norm), after]))
    };
    let blocks: Vec<BlockConfig> = attends.iter().enumerate().map(block).collect::<Result<_, Error>>()?;
    let mut rewrites = projections(&delta.heads, projected);
    rewrites.extend(gated_attention(&attention));
    let operations = blocks.iter().flat_map(|block| &block.branches).map(|branch| &branch.operation);
    let experts = operations.filter_map(|operation| match operation {
        OperationConfig::Experts(ExpertsConfig { count, expert: ExpertConfig::Gated(expert), .. }) => {
            Some((*count, expert.clone()))
        }
        _ => None,
    });
    if let Some((count, expert)) = experts.into_iter().next() {
        let stored = ["experts.gate_up_proj", "experts.down_proj"];
        rewrites.extend(stacked("model.layers.*.mlp", "experts", count, &expert, stored));
    }
    let Description { decoder, eos, .. } = model.describe(model_type, blocks)?;
    let decoder = DecoderConfig { last_norm: Some(NamedNorm::new("norm", norm)), ..decoder };
    Ok(Description { rewrites: rewrites.into(), ..Description::new(model_type, decoder, eos) })
}

/// Qwen's mixture of experts with a gated shared expert.
pub(crate) fn qwen_experts(
    model: &Reader<'_>,
    [count, chosen]: [usize; 2],
    normalize: bool,
) -> Result<OperationConfig, Error> {
    let f = model.f;
    let named = if f.given("num_experts") { "num_experts" } else { "num_local_experts" };
    let size = [f.size(named, count)?, f.size("num_experts_per_tok", chosen)?];
    let expert =
        |name: &str| Ok::<_, Error>(GatedFeedForwardConfig { inner: f.size(name, 512)?, ..model.feed_forward()? });
    let shared = SharedConfig {
        name: "shared_expert".into(),
        expert: expert("shared_expert_intermediate_size")?.into(),
        gate: Some("shared_expert_gate".into()),
    };
    let router = RouterConfig::softmax("gate", normalize);
    let experts = ExpertsConfig::new(size, router, expert("moe_intermediate_size")?);
    Ok(OperationConfig::Experts(ExpertsConfig { shared: Some(shared), ..experts }))
}
