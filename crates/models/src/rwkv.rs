//! `rwkv`, the fourth version: Peng et al. 2023, as Hugging Face stores it.

use longreach_nn::mixers::parts::Pointwise;
use longreach_nn::mixers::{MixerConfig, Rwkv4Config};
use longreach_nn::{
    Bias, BlockConfig, ChannelMixConfig, ChannelMixNames, DecoderConfig, DecoderNames, FeedForwardLayer, NormConfig,
    Order, WordsConfig,
};

use crate::architecture::eos;
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "rwkv", mechanism: "rwkv4", paper: "Peng et al. 2023", describe };

const NAMES: DecoderNames = DecoderNames {
    body: "rwkv",
    embedding: "embeddings",
    blocks: "blocks",
    first_norm: "pre_ln",
    norm: "ln1",
    mixer: "attention",
    second_norm: "ln2",
    feed_forward: "feed_forward",
    last_norm: "ln_out",
    head: "head",
};

const CHANNEL_MIX: ChannelMixNames = ChannelMixNames {
    mix_key: "time_mix_key",
    key: "key",
    receptance: Some(["time_mix_receptance", "receptance"]),
    value: "value",
    kept: true,
    wide: true,
};

/// ε of the norm before the head, whatever the configuration says.
const LAST_EPS: f64 = 1e-5;

fn describe(fields: &Fields) -> Result<Description, Error> {
    let (hidden, layers) = (fields.size("hidden_size", 4096)?, fields.layers("num_hidden_layers", 32)?);
    let inner = fields.size("attention_hidden_size", hidden)?;
    let feed_forward = fields.size("intermediate_size", hidden.saturating_mul(4))?;
    let eps = fields.number("layer_norm_epsilon", 1e-5)?;
    // The library halves the stream after every so many blocks when it evaluates. To norms that is a larger ε; nothing else tells.
    let every = match fields.get("rescale_every").and_then(serde_json::Value::as_u64) {
        Some(0) => usize::MAX,
        _ => fields.size("rescale_every", 6)?,
    };
    let halved = |block: usize, eps: f64| eps * 4f64.powi(i32::try_from(block / every).unwrap_or(i32::MAX));
    let block = |i: usize| BlockConfig {
        norm: NormConfig::Layer(halved(i, eps), Bias::Yes),
        order: Order::Before,
        mixer: MixerConfig::Rwkv4(Rwkv4Config { hidden, inner }),
        feed_forward: Some(FeedForwardLayer::ChannelMix(ChannelMixConfig {
            inner: feed_forward,
            activation: Pointwise::Relu2,
            names: CHANNEL_MIX,
        })),
    };
    Ok(Description {
        model_type: "rwkv",
        decoder: DecoderConfig {
            vocabulary: fields.size("vocab_size", 50277)?,
            hidden,
            blocks: (0..layers).map(block).collect(),
            first_norm: Some(NormConfig::Layer(eps, Bias::Yes)),
            last_norm: Some(NormConfig::Layer(halved(layers, LAST_EPS), Bias::Yes)),
            lower_bounds: None,
            words: WordsConfig::Table { tied: fields.flag("tie_word_embeddings", false)? },
            hmt: None,
            positions: None,
            names: NAMES,
        },
        eos: eos(fields, 0)?,
    })
}
