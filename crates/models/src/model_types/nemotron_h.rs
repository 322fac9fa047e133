//! `nemotron_h`: each layer is a mixer or a feed-forward layer, most of them Mamba-2. NVIDIA 2025.

use longreach_nn::mixers::{AttentionConfig, GatedNorm, Mamba2Config, MixerConfig};
use longreach_nn::{
    Activation, Bias, BlockConfig, BranchConfig, DecoderConfig, DecoderNames, ExpertGroups, ExpertsConfig,
    FeedForwardConfig, LatentConfig, Layout, NamedNorm, NormConfig, OperationConfig, RouterConfig, SharedConfig,
    WordsConfig,
};

use crate::description::activation;
use crate::families::fla::divided;
use crate::families::hybrid::kinds;
use crate::families::llama::{Defaults, LLAMA, Reader};
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "nemotron_h", mechanism: "mamba2", paper: "NVIDIA 2025", describe };

#[derive(Clone, Copy)]
enum Kind {
    Mamba,
    Attention,
    FeedForward,
    Experts,
}

fn describe(f: &Fields) -> Result<Description, Error> {
    let f = &renamed(f);
    let defaults =
        Defaults { vocabulary: 131_072, groups: Some(8), head_dim: Some(128), inner: 21_504, layers: 52, ..LLAMA };
    let model = Reader::new(f, defaults)?;
    let norm_eps = f.number("layer_norm_epsilon", 1e-5)?;
    let norm = NormConfig::Rms(norm_eps);
    let names = [
        ("mamba", Kind::Mamba),
        ("linear_attention", Kind::Mamba),
        ("attention", Kind::Attention),
        ("full_attention", Kind::Attention),
        ("mlp", Kind::FeedForward),
        ("moe", Kind::Experts),
    ];
    let kinds = match kinds(f, "layers_block_type", &names)? {
        Some(kinds) => kinds,
        None => pattern(f)?,
    };
    let heads = f.size("mamba_num_heads", 128)?;
    let groups = f.size("n_groups", 8)?;
    divided(f, "n_groups", heads, groups)?;
    let least = f.number("time_step_min", 1e-3)? as f32;
    let mamba = MixerConfig::Mamba2(Mamba2Config {
        hidden: model.hidden,
        heads,
        head_dim: f.size("mamba_head_dim", 64)?,
        state: f.size("ssm_state_size", 128)?,
        groups,
        conv: f.size("conv_kernel", 4)?,
        conv_bias: f.flag("use_conv_bias", true)?,
        bias: f.flag("use_bias", false)?,
        out_bias: f.flag("use_bias", false)?,
        norm: GatedNorm::AfterGate(norm_eps),
        multipliers: [1.0; 5],
        // As in transformers; releases have no upper limit.
        step_limit: (least, f32::INFINITY),
        step: (least, f.number("time_step_max", 0.1)? as f32),
    });
    // As in transformers, attention has no biases and the head a matrix of its own, whatever the fields say.
    let attention = AttentionConfig { bias: false, out_bias: false, ..model.attention()? };
    let attention = MixerConfig::Attention(attention);
    let feed_forward = FeedForwardConfig {
        inner: f.size("intermediate_size", defaults.inner)?,
        activation: activation(f, "mlp_hidden_act", Activation::Relu2)?,
        gated: false,
        bias: if f.flag("mlp_bias", false)? { Bias::Yes } else { Bias::No },
        names: ["up_proj", "down_proj"],
        layout: Layout::Same,
    };
    let block = |kind: Kind| {
        let branch = match kind {
            Kind::Mamba => BranchConfig::mixer("mixer", mamba.clone()),
            Kind::Attention => BranchConfig::mixer("mixer", attention.clone()),
            Kind::FeedForward => BranchConfig::new("mixer", OperationConfig::FeedForward(feed_forward)),
            Kind::Experts => BranchConfig::new("mixer", OperationConfig::Experts(experts(f, feed_forward)?)),
        };
        Ok(BlockConfig::new(vec![branch.before("norm", norm)]))
    };
    let blocks = kinds.into_iter().map(block).collect::<Result<_, Error>>()?;
    let Description { decoder, eos, .. } = model.describe("nemotron_h", blocks)?;
    let decoder = DecoderConfig {
        last_norm: Some(NamedNorm::new("norm_f", norm)),
        words: WordsConfig::Table { tied: false },
        names: DecoderNames::new(["backbone", "embeddings", "layers", "lm_head"]),
        ..decoder
    };
    Ok(Description::new("nemotron_h", decoder, eos))
}

/// The fields, with older names replaced.
fn renamed(f: &Fields) -> Fields {
    let mut fields = f.clone();
    let names = [
        ("n_groups", "mamba_n_groups"),
        ("conv_kernel", "mamba_d_conv"),
        ("time_step_min", "mamba_dt_min"),
        ("time_step_max", "mamba_dt_max"),
        ("use_conv_bias", "mamba_conv_bias"),
        ("n_routed_experts", "num_local_experts"),
    ];
    for (name, older) in names {
        if let Some(value) = f.get(older) {
            fields.set(name, value.clone());
        }
    }
    fields
}

/// The mixture of experts, whose experts and shared expert are feed-forward layers like that of other layers.
fn experts(f: &Fields, like: FeedForwardConfig) -> Result<ExpertsConfig, Error> {
    let size = [f.size("n_routed_experts", 8)?, f.size("num_experts_per_tok", 2)?];
    let groups = ExpertGroups { count: f.size("n_group", 1)?, kept: f.size("topk_group", 1)? };
    let router = RouterConfig {
        correction: Some("gate.e_score_correction_bias".into()),
        groups: (groups.count > 1).then_some(groups),
        scale: f.number("routed_scaling_factor", 1.0)? as f32,
        ..RouterConfig::sigmoid("gate", f.flag("norm_topk_prob", true)?.then_some(1e-20))
    };
    let width = |name: &str| f.size(name, 7688);
    let expert = FeedForwardConfig { inner: width("moe_intermediate_size")?, bias: Bias::No, ..like };
    let shared = FeedForwardConfig { inner: width("moe_shared_expert_intermediate_size")?, ..like };
    let names = ["fc1_latent_proj", "fc2_latent_proj"].map(str::to_owned);
    let latent = f.some_size("moe_latent_size")?.map(|width| LatentConfig { width, names, bias: like.bias });
    let shared = Some(SharedConfig { name: "shared_experts".into(), expert: shared.into(), gate: None });
    Ok(ExpertsConfig { shared, latent, ..ExpertsConfig::new(size, router, expert) })
}

/// The kinds of layers of `hybrid_override_pattern`, a letter each.
fn pattern(f: &Fields) -> Result<Vec<Kind>, Error> {
    let Some(text) = f.text("hybrid_override_pattern")? else {
        return Err(f.error("field `hybrid_override_pattern` is missing, and `layers_block_type` too"));
    };
    let kind = |letter: char| match letter {
        'M' => Ok(Kind::Mamba),
        '*' => Ok(Kind::Attention),
        '-' => Ok(Kind::FeedForward),
        'E' => Ok(Kind::Experts),
        other => {
            Err(f.error(format!("field `hybrid_override_pattern`: want the letters M, *, - and E, found '{other}'")))
        }
    };
    text.chars().map(kind).collect()
}
