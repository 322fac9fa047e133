//! `longreach`: this project's own model type, whose layers name their mechanism. It serves to compare and to combine
//! mechanisms.
//!
//! `"mixer"` is a name, an object whose `"type"` is the name and whose other fields override those of the model, or a
//! list of these, which the layers cycle through:
//!
//! ```json
//! {"model_type": "longreach", "vocab_size": 8192, "hidden_size": 256, "num_hidden_layers": 4,
//!  "mixer": ["gated_delta", {"type": "window", "window": 512}]}
//! ```
//!
//! `"blocks"` describes blocks that are not a mixer followed by a gated feed-forward layer: see `blocks.rs`.
//!
//! `"hmt": {"segment": 1024, "sensory": 32, "queue": 300}` adds a hierarchical memory around the decoder.

use longreach_attention::linear::linear_attention::{EPSILON, Map};
use longreach_attention::linear::performer::Kernel;
use longreach_attention::softmax::infllm_v2::InfLlmV2;
use longreach_attention::softmax::streaming::Streaming;
use longreach_nn::mixers::parts::{Heads, Pointwise, Short};
use longreach_nn::mixers::{
    AttentionConfig, Blocks, Compressed, CompressiveConfig, CosFormerConfig, DeltaRuleConfig, Features, GateProjection,
    GatedConvConfig, GatedDeltaConfig, GatedNorm, GlaConfig, Hgrn2Config, InfiniConfig, KdaConfig, LightningConfig,
    LinearAttentionConfig, Mamba2Config, MambaConfig, MixerConfig, PerformerConfig, Reach, RetentionConfig,
    RgLruConfig, Rwkv4Config, Rwkv5Config, Rwkv6Config, Rwkv7Config, TransformerXlConfig,
};
use longreach_nn::{Activation, DecoderConfig, DecoderNames, HmtConfig, NamedNorm, WordsConfig};

use crate::description::eos;
use crate::families::fla::{divided, rotary};
use crate::{Architecture, Description, Error, Fields, Rewrites};

mod blocks;

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "longreach", mechanism: "any", paper: "this project", describe };

fn describe(fields: &Fields) -> Result<Description, Error> {
    let (hidden, layers) = (fields.size("hidden_size", 512)?, fields.layers("num_hidden_layers", 6)?);
    let norm = blocks::norm(fields, "norm", "rms")?.ok_or_else(|| fields.error("field `norm`: want a norm"))?;
    let size = [fields.size("vocab_size", 32000)?, hidden];
    let cap = fields.number("logits_cap", 0.0)? as f32;
    Ok(Description {
        model_type: "longreach",
        decoder: DecoderConfig {
            last_norm: Some(NamedNorm::new("norm", norm)),
            words: WordsConfig::Table { tied: fields.flag("tie_word_embeddings", true)? },
            embedding_scale: fields.number("embedding_scale", 1.0)? as f32,
            logits_scale: fields.number("logits_scale", 1.0)? as f32,
            logits_cap: (cap != 0.0).then_some(cap),
            hmt: hmt(fields)?,
            ..DecoderConfig::new(
                size,
                blocks::blocks(fields, hidden, layers)?,
                DecoderNames::new(["model", "embeddings", "layers", "lm_head"]),
            )
        },
        eos: eos(fields, 0)?,
        rewrites: Rewrites::default(),
        context: None,
    })
}

/// The hierarchical memory around the decoder, if `hmt` is given.
fn hmt(fields: &Fields) -> Result<Option<HmtConfig>, Error> {
    let found = fields.objects("hmt")?;
    let [f] = &found[..] else {
        return if found.is_empty() { Ok(None) } else { Err(fields.error("field `hmt`: want one object")) };
    };
    let segment = f.size("segment", 1024)?;
    Ok(Some(HmtConfig {
        segment,
        sensory: f.count("sensory", 32)?,
        summary: f.count("summary", segment / 2)?,
        queue: f.size("queue", 300)?,
        width: f.size("width", fields.size("hidden_size", 512)?)?,
    }))
}

/// The names of mixers.
const NAMED: &[&str] = &[
    "dense",
    "window",
    "streaming",
    "infllm_v2",
    "linear_attention",
    "based",
    "performer",
    "cosformer",
    "retention",
    "lightning",
    "gla",
    "hgrn2",
    "delta_rule",
    "gated_delta",
    "kda",
    "rwkv4",
    "rwkv5",
    "rwkv6",
    "rwkv7",
    "rg_lru",
    "gated_conv",
    "infini",
    "transformer_xl",
    "compressive",
    "mamba",
    "mamba2",
];

/// The mixer `name`, with the sizes given by the fields or the usual ones.
pub(crate) fn mixer(name: &str, f: &Fields, hidden: usize, layer: (usize, usize)) -> Result<MixerConfig, Error> {
    let width = f.size("head_dim", 64.min(hidden))?;
    let count = f.size("num_heads", (hidden / width).max(1))?;
    let short = |default: usize| match f.get("conv_size").and_then(serde_json::Value::as_u64) {
        Some(0) => Ok(None),
        _ => {
            let taps = if default == 0 { f.some_size("conv_size")? } else { Some(f.size("conv_size", default)?) };
            Ok::<_, Error>(taps.map(|taps| Short { taps, bias: false }))
        }
    };
    let heads = |key: usize, value: usize, conv: usize| {
        let groups = f.size("num_kv_heads", count)?;
        divided(f, "num_kv_heads", count, groups)?;
        let (key, value) = (f.size("key_dim", key)?, f.size("value_dim", value)?);
        let (norm_eps, conv) = (f.number("norm_eps", 1e-5)?, short(conv)?);
        Ok::<_, Error>(Heads { hidden, heads: count, groups, key, value, conv, norm_eps, affine: true })
    };
    // The heads of RWKV cover the width of the model.
    let covering = || divided(f, "head_dim", hidden, width).map(|_| width);
    let attention = |reach: Reach| {
        Ok(MixerConfig::Attention(AttentionConfig {
            groups: f.size("num_kv_heads", count)?,
            head_dim: width,
            rotary: f.flag("rotary", true)?.then(|| rotary(width & !1, 10_000.0)),
            reach,
            ..AttentionConfig::new(hidden, count)
        }))
    };
    let linear = |features: Features, key: usize| {
        Ok(MixerConfig::LinearAttention(LinearAttentionConfig {
            heads: heads(key, width, 0)?,
            features,
            tied: false,
            by_sum: [false; 2],
            normalize: f.flag("normalize", true)?.then_some(EPSILON),
        }))
    };
    let norm_eps = f.number("norm_eps", 1e-5)?;
    match name {
        "dense" => attention(Reach::Full),
        "window" => attention(Reach::Window(f.size("window", 512)?)),
        "streaming" => {
            let (sinks, recent) = (f.size("sinks", 4)?, f.size("window", 512)?);
            attention(Reach::Sinks(Streaming { sinks, recent }))
        }
        "infllm_v2" => attention(Reach::Blocks(blocks_of_keys(f)?)),
        "linear_attention" => linear(features(f)?, width),
        // Arora et al. 2024: narrow queries and keys, since their Taylor features are numerous.
        "based" => linear(Features::Fixed(Map::Taylor), 16),
        "performer" => {
            let rows = (width as f64 * (width as f64).ln()).round().max(1.0) as usize;
            Ok(MixerConfig::Performer(PerformerConfig {
                heads: heads(width, width, 0)?,
                rows: f.size("features", rows)?,
                kernel: Kernel::Softmax,
                epsilon: 1e-4,
            }))
        }
        "cosformer" => {
            let length = f.size("max_position_embeddings", 2048)?;
            Ok(MixerConfig::CosFormer(CosFormerConfig { heads: heads(width, width, 0)?, length }))
        }
        "retention" => {
            let heads = heads(width, 2 * width, 0)?;
            Ok(MixerConfig::Retention(RetentionConfig {
                rotary: rotary(heads.key & !1, 10_000.0),
                heads,
                features: Pointwise::Identity,
                gated: true,
                norm: "norm",
            }))
        }
        "lightning" => Ok(MixerConfig::Lightning(LightningConfig::minimax(hidden, [count, width], layer, norm_eps))),
        "gla" => Ok(MixerConfig::Gla(GlaConfig {
            heads: heads(width.div_ceil(2), width, 0)?,
            gate_rank: f.size("gate_rank", 16)?,
            normalizer: 16.0,
            clamp: None,
            features: Pointwise::Identity,
            gated: true,
            norm: "norm",
        })),
        "hgrn2" => Ok(MixerConfig::Hgrn2(Hgrn2Config { heads: heads(width, width, 0)? })),
        "delta_rule" => Ok(MixerConfig::DeltaRule(DeltaRuleConfig {
            heads: heads(width, width, 4)?,
            features: Pointwise::Silu,
            by_sum: false,
            learned_beta: true,
            up_to_two: f.flag("allow_neg_eigval", false)?,
            gated: f.flag("gated", false)?,
        })),
        "gated_delta" => Ok(MixerConfig::GatedDelta(GatedDeltaConfig {
            heads: heads(width, width, 4)?,
            up_to_two: f.flag("allow_neg_eigval", false)?,
            gated: f.flag("gated", true)?,
            cyclic: false,
        })),
        "kda" => Ok(MixerConfig::Kda(KdaConfig {
            heads: heads(width, width, 4)?,
            up_to_two: f.flag("allow_neg_eigval", false)?,
            lower_bound: None,
            gates: GateProjection::LowRank { bias: true },
        })),
        "rwkv4" => Ok(MixerConfig::Rwkv4(Rwkv4Config { hidden, inner: f.size("inner", hidden)? })),
        "rwkv5" => Ok(MixerConfig::Rwkv5(Rwkv5Config { hidden, head_dim: covering()?, norm_eps: 64e-5 })),
        "rwkv6" => Ok(MixerConfig::Rwkv6(Rwkv6Config {
            hidden,
            heads: count,
            key: f.size("key_dim", width)?,
            value: f.size("value_dim", width)?,
            mix_rank: f.size("mix_rank", 32)?,
            decay_rank: f.size("decay_rank", 64)?,
            norm_eps: 64e-5,
            slots: Rwkv6Config::SLOTS,
        })),
        "rwkv7" => Ok(MixerConfig::Rwkv7(Rwkv7Config {
            hidden,
            head_dim: covering()?,
            ranks: [64, 128, 64, 16],
            first: layer.0 == 0,
            norm_eps: 64e-5,
            plain_lengths: false,
        })),
        "rg_lru" => Ok(MixerConfig::RgLru(RgLruConfig {
            hidden,
            inner: f.size("inner", hidden)?,
            blocks: f.size("num_blocks", count)?,
            conv: f.size("conv_size", 4)?,
            activation: Activation::GeluTanh,
            whole_first: false,
        })),
        "infini" => Ok(MixerConfig::Infini(InfiniConfig {
            heads: Heads { conv: None, ..heads(width, width, 0)? },
            segment: f.size("segment", 2048)?,
            delta: f.flag("delta", true)?,
            rotary: f.flag("rotary", true)?.then(|| rotary(width & !1, 10_000.0)),
            gate: f.number("gate", 0.0)? as f32,
        })),
        "transformer_xl" => Ok(MixerConfig::TransformerXl(TransformerXlConfig {
            hidden,
            heads: count,
            head_dim: width,
            memory: f.size("memory", 512)?,
            clamp: f.some_size("clamp_len")?,
            same_length: f.flag("same_length", true)?,
            zeros: false,
            norm: None,
        })),
        "compressive" => {
            let segment = f.size("segment", 512)?;
            Ok(MixerConfig::Compressive(CompressiveConfig {
                hidden,
                heads: count,
                head_dim: width,
                segment,
                memory: f.count("memory", segment)?,
                compressed: f.size("compressed", 512)?,
                rate: f.size("rate", 4)?,
                how: match f.text("compression")? {
                    None | Some("conv") => Compressed::Conv,
                    Some("mean") => Compressed::Mean,
                    Some("max") => Compressed::Max,
                    Some(other) => {
                        return Err(f.error(format!("field `compression`: want conv, mean or max, found \"{other}\"")));
                    }
                },
            }))
        }
        "gated_conv" => {
            let taps = f.size("conv_size", 3)?;
            Ok(MixerConfig::GatedConv(GatedConvConfig { hidden, taps, bias: f.flag("bias", false)? }))
        }
        "mamba" => Ok(MixerConfig::Mamba(MambaConfig {
            hidden,
            inner: f.size("inner", 2 * hidden)?,
            state: f.size("state_size", 16)?,
            conv: f.size("conv_size", 4)?,
            rank: f.size("time_step_rank", hidden.div_ceil(16))?,
            conv_bias: true,
            bias: false,
            inner_norm: None,
            step: (1e-3, 0.1),
        })),
        "mamba2" => {
            let heads = f.size("num_heads", (2 * hidden / width).max(1))?;
            let groups = f.size("n_groups", 1)?;
            divided(f, "n_groups", heads, groups)?;
            Ok(MixerConfig::Mamba2(Mamba2Config {
                hidden,
                heads,
                head_dim: width,
                state: f.size("state_size", 64)?,
                groups,
                conv: f.size("conv_size", 4)?,
                conv_bias: true,
                bias: false,
                out_bias: false,
                norm: GatedNorm::AfterGate(norm_eps),
                multipliers: [1.0; 5],
                step_limit: (0.0, f32::INFINITY),
                step: (1e-3, 0.1),
            }))
        }
        other => Err(f.error(format!("field `mixer`: want one of {}, found \"{other}\"", NAMED.join(", ")))),
    }
}

/// The sizes of InfLLM v2, under the names that they have as a mechanism.
fn blocks_of_keys(f: &Fields) -> Result<Blocks, Error> {
    let of = InfLlmV2::default();
    let sizes = InfLlmV2 {
        kernel: f.size("kernel", of.kernel)?,
        stride: f.size("stride", of.stride)?,
        block: f.size("block", of.block)?,
        init_blocks: f.count("init_blocks", of.init_blocks)?,
        window: f.count("window", of.window)?,
        top: f.size("top", of.top)?,
        dense_below: f.count("dense_below", of.dense_below)?,
    };
    Ok(Blocks { sizes, unrotated: f.flag("unrotated", false)? })
}

/// The feature map of linear attention, from `feature_map`.
fn features(f: &Fields) -> Result<Features, Error> {
    Ok(match f.text("feature_map")? {
        None | Some("elu") => Features::Fixed(Map::Elu),
        Some("relu") => Features::Fixed(Map::Relu),
        Some("relu2") => Features::Fixed(Map::Relu2),
        Some("identity") => Features::Fixed(Map::Identity),
        Some("exp") => Features::Exp,
        Some("t2r") => Features::T2r,
        Some("product") => Features::Product,
        Some("hedgehog") => Features::Hedgehog,
        Some("dpfp") => Features::Dpfp,
        Some(other) => {
            let want = "elu, relu, relu2, identity, exp, t2r, product, hedgehog or dpfp";
            return Err(f.error(format!("field `feature_map`: want {want}, found \"{other}\"")));
        }
    })
}
