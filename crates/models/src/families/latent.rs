//! What Kimi Linear and Ling share: multi-head latent attention among layers of Kimi delta attention, and mixtures of
//! experts with a shared expert.

use longreach_attention::rotary::Rotary;
use longreach_nn::mixers::parts::{Heads, Short};
use longreach_nn::mixers::{GateProjection, KdaConfig, MixerConfig, MlaConfig};
use longreach_nn::{
    BlockConfig, BranchConfig, ExpertGroups, ExpertsConfig, GatedFeedForwardConfig, OperationConfig, RouterConfig,
    SharedConfig,
};

use super::hybrid::{as_many, kinds};
use super::llama::Reader;
use crate::description::silu;
use crate::{Error, Fields};

/// ε of the norms of the latents, which is fixed.
const LATENT_EPS: f64 = 1e-6;

/// The latent attention of a configuration, without gates.
pub(crate) fn attention(f: &Fields, hidden: usize, rotary: Option<Rotary>) -> Result<MlaConfig, Error> {
    let (nope, rope) = (f.size("qk_nope_head_dim", 128)?, f.size("qk_rope_head_dim", 64)?);
    Ok(MlaConfig {
        hidden,
        heads: f.size("num_attention_heads", 32)?,
        query_rank: f.some_size("q_lora_rank")?,
        latent: f.size("kv_lora_rank", 512)?,
        nope,
        rope,
        value: f.size("v_head_dim", 128)?,
        rotary,
        scale: ((nope + rope) as f32).powf(-0.5),
        bias: f.flag("attention_bias", false)?,
        norm_eps: LATENT_EPS,
        gate: false,
    })
}

/// Kimi delta attention of `heads` heads.
pub(crate) fn delta(
    f: &Fields,
    hidden: usize,
    [heads, width, taps]: [usize; 3],
    norm_eps: f64,
    gates: GateProjection,
) -> Result<KdaConfig, Error> {
    silu(f)?;
    let conv = Some(Short { taps, bias: false });
    let heads = Heads { hidden, heads, groups: heads, key: width, value: width, conv, norm_eps, affine: true };
    Ok(KdaConfig { heads, up_to_two: false, lower_bound: None, gates })
}

/// The first of these fields that is given: names of transformers 5, and older ones.
fn either<'a>(f: &Fields, names: [&'a str; 2]) -> &'a str {
    if f.given(names[0]) { names[0] } else { names[1] }
}

/// The default sizes of a mixture: experts, experts a token, width of an expert, groups, groups kept; and the factor.
pub(crate) struct Mixture {
    pub(crate) count: usize,
    pub(crate) chosen: usize,
    pub(crate) inner: usize,
    pub(crate) groups: ExpertGroups,
    pub(crate) scale: f64,
}

/// The mixture of experts of a configuration; `correction` is the name of the bias for the choice.
pub(crate) fn experts(
    f: &Fields,
    d: &Mixture,
    correction: &str,
    names: [&str; 3],
    feed_forward: &GatedFeedForwardConfig,
) -> Result<OperationConfig, Error> {
    let count = f.size(either(f, ["num_local_experts", "num_experts"]), d.count)?;
    let chosen = f.size(either(f, ["num_experts_per_tok", "num_experts_per_token"]), d.chosen)?;
    let groups = ExpertGroups {
        count: f.size(either(f, ["n_group", "num_expert_group"]), d.groups.count)?,
        kept: f.size("topk_group", d.groups.kept)?,
    };
    let normalize = f.flag(either(f, ["norm_topk_prob", "moe_renormalize"]), true)?;
    let router = RouterConfig {
        correction: Some(correction.into()),
        groups: (groups.count > 1).then_some(groups),
        scale: f.number("routed_scaling_factor", d.scale)? as f32,
        ..RouterConfig::sigmoid("gate", normalize.then_some(1e-20))
    };
    let inner = f.size("moe_intermediate_size", d.inner)?;
    let shared = f.size(either(f, ["n_shared_experts", "num_shared_experts"]), 1)?.saturating_mul(inner);
    let expert = |inner, names: [&str; 3]| {
        let names = names.map(str::to_owned);
        GatedFeedForwardConfig { inner, names, ..feed_forward.clone() }
    };
    let shared = SharedConfig {
        name: "shared_experts".into(),
        expert: expert(shared, ["gate_proj", "up_proj", "down_proj"]).into(),
        gate: None,
    };
    let experts = ExpertsConfig::new([count, chosen], router, expert(inner, names));
    Ok(OperationConfig::Experts(ExpertsConfig { shared: Some(shared), ..experts }))
}

/// Which layers have a mixture of experts: those of `mlp_layer_types`, or all after the first `first_k_dense_replace`.
pub(crate) fn sparse(f: &Fields, layers: usize, first: usize) -> Result<Vec<bool>, Error> {
    let first = f.count("first_k_dense_replace", first)?;
    let found = kinds(f, "mlp_layer_types", &[("sparse", true), ("dense", false)])?;
    let found = found.unwrap_or_else(|| (0..layers).map(|i| i >= first).collect());
    as_many(f, "mlp_layer_types", &found, layers)?;
    Ok(found)
}

/// A block of a mixer, which the file calls `name`, and an operation.
pub(crate) fn block(
    model: &Reader<'_>,
    (name, mixer): (&str, MixerConfig),
    (operation_name, operation): (&str, OperationConfig),
) -> BlockConfig {
    BlockConfig::new(vec![
        BranchConfig::mixer(name, mixer).before("input_layernorm", model.rms()),
        BranchConfig::new(operation_name, operation).before("post_attention_layernorm", model.rms()),
    ])
}
