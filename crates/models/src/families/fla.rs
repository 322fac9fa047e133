//! What the models of flash-linear-attention share: the decoder, the width of its feed-forward layers, and
//! interleaved attention layers.

use longreach_attention::rotary::{Rotary, Scaling};
use longreach_nn::mixers::parts::{Heads, Pointwise, Short};
use longreach_nn::mixers::{AttentionConfig, MixerConfig, Reach};
use longreach_nn::{
    BlockConfig, BranchConfig, DecoderConfig, DecoderNames, GatedFeedForwardConfig, NamedNorm, NormConfig,
    OperationConfig, WordsConfig,
};

use crate::description::{eos, silu};
use crate::{Description, Error, Fields, Rewrites};

/// The names of the decoder's parts.
pub(crate) fn names() -> DecoderNames {
    DecoderNames::new(["model", "embeddings", "layers", "lm_head"])
}

/// The defaults that differ between the models.
pub(crate) struct Defaults {
    pub(crate) layers: usize,
    pub(crate) hidden_ratio: f64,
}

/// Describes the model. `mixer` receives the width of the model and the index of the layer, and is called for all
/// layers that are not softmax attention.
pub(crate) fn describe(
    fields: &Fields,
    model_type: &'static str,
    d: &Defaults,
    mixer: impl Fn(usize, usize) -> Result<MixerConfig, Error>,
) -> Result<Description, Error> {
    silu(fields)?;
    if fields.get("attnres_block_size").is_some() {
        return Err(fields.error("field `attnres_block_size`: attention residuals over blocks are not supported"));
    }
    let (hidden, layers) = (fields.size("hidden_size", 2048)?, fields.layers("num_hidden_layers", d.layers)?);
    let norm = NormConfig::Rms(fields.number("norm_eps", 1e-6)?);
    let inner = match fields.some_size("intermediate_size")? {
        Some(inner) => inner,
        None => {
            let ratio = fields.number("hidden_ratio", d.hidden_ratio)?;
            fields.scaled("hidden_ratio", hidden as f64 * ratio * 2.0 / 3.0)?.div_ceil(256) * 256
        }
    };
    let attention = attention(fields, hidden)?;
    let block = |i: usize| {
        let found = attention.iter().find(|(layers, _)| layers.contains(&i));
        let mixer = match found {
            Some((_, attention)) => MixerConfig::Attention(attention.clone()),
            None => mixer(hidden, i)?,
        };
        let feed_forward = OperationConfig::Gated(GatedFeedForwardConfig::silu(inner));
        Ok(BlockConfig::new(vec![
            BranchConfig::mixer("attn", mixer).before("attn_norm", norm),
            BranchConfig::new("mlp", feed_forward).before("mlp_norm", norm),
        ]))
    };
    let size = [fields.size("vocab_size", 32000)?, hidden];
    let blocks = (0..layers).map(block).collect::<Result<_, Error>>()?;
    Ok(Description {
        model_type,
        decoder: DecoderConfig {
            last_norm: Some(NamedNorm::new("norm", norm)),
            words: WordsConfig::Table { tied: fields.flag("tie_word_embeddings", false)? },
            ..DecoderConfig::new(size, blocks, names())
        },
        eos: eos(fields, 2)?,
        rewrites: Rewrites::default(),
        context: None,
    })
}

/// The softmax attention layers configured by `attn`.
fn attention(fields: &Fields, hidden: usize) -> Result<Vec<(Vec<usize>, AttentionConfig)>, Error> {
    let one = |f: Fields| {
        let layers = f.ids("layers")?.into_iter().map(|i| i as usize).collect();
        let heads = f.some_size("num_heads")?.ok_or_else(|| f.error("field `attn.num_heads` is missing"))?;
        let head_dim = divided(&f, "attn.num_heads", hidden, heads)?;
        let groups = f.size("num_kv_heads", heads)?;
        divided(&f, "attn.num_kv_heads", heads, groups)?;
        let theta = f.number("rope_theta", 10_000.0)?;
        if theta <= 0.0 {
            return Err(f.error(format!("field `attn.rope_theta`: want a number above 0, found {theta}")));
        }
        if head_dim % 2 != 0 {
            return Err(f.error(format!("field `attn.num_heads`: heads of {head_dim} channels cannot be rotated")));
        }
        let reach = f.some_size("window_size")?.map_or(Reach::Full, Reach::Window);
        let config = AttentionConfig {
            groups,
            head_dim,
            bias: f.flag("qkv_bias", false)?,
            rotary: Some(rotary(head_dim, theta)),
            reach,
            ..AttentionConfig::new(hidden, heads)
        };
        Ok((layers, config))
    };
    fields.objects("attn")?.into_iter().map(one).collect()
}

/// Rotary positions over the full width of a head.
pub(crate) fn rotary(width: usize, theta: f64) -> Rotary {
    Rotary { width, theta, interleaved: false, scaling: Scaling::default() }
}

/// `n / by`; errors, naming the field, if it is not an integer.
pub(crate) fn divided(fields: &Fields, name: &str, n: usize, by: usize) -> Result<usize, Error> {
    if by == 0 || !n.is_multiple_of(by) {
        return Err(fields.error(format!("field `{name}`: want a divisor of {n}, found {by}")));
    }
    Ok(n / by)
}

/// The sizes of heads from `num_heads`, `num_kv_heads`, `expand_k` and `expand_v`.
pub(crate) fn heads(fields: &Fields, hidden: usize, d: (usize, f64, f64)) -> Result<Heads, Error> {
    let heads = fields.size("num_heads", d.0)?;
    let groups = fields.size("num_kv_heads", heads)?;
    divided(fields, "num_kv_heads", heads, groups)?;
    let of = |name, default| {
        let expand = fields.number(name, default)?;
        divided(fields, "num_heads", fields.scaled(name, hidden as f64 * expand)?, heads)
    };
    Ok(Heads {
        hidden,
        heads,
        groups,
        key: of("expand_k", d.1)?,
        value: of("expand_v", d.2)?,
        conv: None,
        norm_eps: fields.number("norm_eps", 1e-6)?,
        affine: fields.flag("elementwise_affine", true)?,
    })
}

/// The short convolutions, from `use_short_conv` and `conv_size`.
pub(crate) fn conv(fields: &Fields, default: bool) -> Result<Option<Short>, Error> {
    let taps = fields.size("conv_size", 4)?;
    Ok(fields.flag("use_short_conv", default)?.then_some(Short { taps, bias: false }))
}

/// The feature map named by `feature_map`.
pub(crate) fn feature_map(fields: &Fields) -> Result<Pointwise, Error> {
    pointwise(fields, "feature_map", Pointwise::Identity)
}

/// An elementwise function, by its name in the library.
pub(crate) fn pointwise(fields: &Fields, name: &str, default: Pointwise) -> Result<Pointwise, Error> {
    Ok(match fields.text(name)? {
        None => default,
        Some("relu") => Pointwise::Relu,
        Some("sqrelu") => Pointwise::Relu2,
        Some("silu" | "swish") => Pointwise::Silu,
        Some("sigmoid") => Pointwise::Sigmoid,
        Some(other) => {
            let want = "relu, sqrelu, silu, swish or sigmoid";
            return Err(fields.error(format!("field `{name}`: want {want}, found \"{other}\"")));
        }
    })
}

/// Whether the output is gated, and the name of the output norm, which may be fused with the gate.
pub(crate) fn gated_norm(fields: &Fields) -> Result<(bool, &'static str), Error> {
    let gated = fields.flag("use_output_gate", true)?;
    let fused = gated && fields.flag("fuse_norm", true)?;
    Ok((gated, if fused { "g_norm_swish_gate" } else { "g_norm" }))
}

/// The sizes of heads with a given width; there may be more value heads than key heads, by `num_v_heads`.
pub(crate) fn grouped_heads(fields: &Fields, hidden: usize, d: (usize, usize, f64)) -> Result<Heads, Error> {
    let (key, groups) = (fields.size("head_dim", d.0)?, fields.size("num_heads", d.1)?);
    let heads = fields.size("num_v_heads", groups)?;
    if !heads.is_multiple_of(groups) {
        return Err(fields.error(format!("field `num_v_heads`: want a multiple of {groups}, found {heads}")));
    }
    let value = key as f64 * fields.number("expand_v", d.2)?;
    if value < 1.0 || value.fract() != 0.0 {
        return Err(fields.error(format!("field `expand_v`: {value} channels per head is not an integer")));
    }
    Ok(Heads {
        hidden,
        heads,
        groups,
        key,
        value: fields.scaled("expand_v", value)?,
        conv: conv(fields, true)?,
        norm_eps: fields.number("norm_eps", 1e-6)?,
        affine: true,
    })
}
