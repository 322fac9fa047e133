//! `nemotron_h`: each layer is a mixer or a feed-forward layer, most of them Mamba-2. NVIDIA 2025.

use longreach_nn::mixers::{AttentionConfig, Mamba2Config, MixerConfig};
use longreach_nn::{
    Activation, Bias, BlockConfig, BranchConfig, DecoderConfig, DecoderNames, FeedForwardConfig, Layout, NamedNorm,
    NormConfig, OperationConfig, WordsConfig,
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
        norm_eps,
        // As in transformers; releases have no upper limit.
        step_limit: (least, f32::INFINITY),
        step: (least, f.number("time_step_max", 0.1)? as f32),
    });
    // As in transformers, attention has no biases and the head a matrix of its own, whatever the fields say.
    let attention = AttentionConfig { bias: false, out_bias: false, ..model.attention()? };
    let attention = MixerConfig::Attention(attention);
    let feed_forward = OperationConfig::FeedForward(FeedForwardConfig {
        inner: f.size("intermediate_size", defaults.inner)?,
        activation: activation(f, "mlp_hidden_act", Activation::Relu2)?,
        gated: false,
        bias: if f.flag("mlp_bias", false)? { Bias::Yes } else { Bias::No },
        names: ["up_proj", "down_proj"],
        layout: Layout::Same,
    });
    let block = |kind: Kind| {
        let branch = match kind {
            Kind::Mamba => BranchConfig::mixer("mixer", mamba.clone()),
            Kind::Attention => BranchConfig::mixer("mixer", attention.clone()),
            Kind::FeedForward => BranchConfig::new("mixer", feed_forward.clone()),
            Kind::Experts => return Err(f.error("layers with mixtures of experts are not supported for this type")),
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
    Ok(Description { model_type: "nemotron_h", decoder, eos })
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
