//! `rwkv`, version 4: Peng et al. 2023, as stored by Hugging Face.

use longreach_nn::mixers::parts::Pointwise;
use longreach_nn::mixers::{MixerConfig, Rwkv4Config};
use longreach_nn::{
    Bias, BlockConfig, BranchConfig, ChannelMixConfig, ChannelMixNames, DecoderConfig, DecoderNames, NamedNorm,
    NormConfig, OperationConfig, WordsConfig,
};

use crate::description::eos;
use crate::{Architecture, Description, Error, Fields, Rewrites};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "rwkv", mechanism: "rwkv4", paper: "Peng et al. 2023", describe };

const CHANNEL_MIX: ChannelMixNames = ChannelMixNames {
    mix_key: "time_mix_key",
    key: "key",
    receptance: Some(["time_mix_receptance", "receptance"]),
    value: "value",
    kept: true,
    wide: true,
};

/// ε of the final norm, independent of the configuration.
const LAST_EPS: f64 = 1e-5;

fn describe(fields: &Fields) -> Result<Description, Error> {
    let (hidden, layers) = (fields.size("hidden_size", 4096)?, fields.layers("num_hidden_layers", 32)?);
    let inner = fields.size("attention_hidden_size", hidden)?;
    let feed_forward = fields.size("intermediate_size", hidden.saturating_mul(4))?;
    let eps = fields.number("layer_norm_epsilon", 1e-5)?;
    // In evaluation mode the library halves the residual stream after every `rescale_every` blocks. This only affects
    // the norms, for which it is equivalent to a larger ε.
    let every = match fields.get("rescale_every").and_then(serde_json::Value::as_u64) {
        Some(0) => usize::MAX,
        _ => fields.size("rescale_every", 6)?,
    };
    let halved = |block: usize, eps: f64| eps * 4f64.powi(i32::try_from(block / every).unwrap_or(i32::MAX));
    let channel_mix = || {
        let (inner, activation) = (feed_forward, Pointwise::Relu2);
        OperationConfig::ChannelMix(ChannelMixConfig { inner, activation, names: CHANNEL_MIX })
    };
    let block = |i: usize| {
        let norm = NormConfig::Layer(halved(i, eps), Bias::Yes);
        BlockConfig::new(vec![
            BranchConfig::mixer("attention", MixerConfig::Rwkv4(Rwkv4Config { hidden, inner })).before("ln1", norm),
            BranchConfig::new("feed_forward", channel_mix()).before("ln2", norm),
        ])
    };
    let size = [fields.size("vocab_size", 50277)?, hidden];
    let blocks = (0..layers).map(block).collect();
    let last_norm = NormConfig::Layer(halved(layers, LAST_EPS), Bias::Yes);
    Ok(Description {
        model_type: "rwkv",
        decoder: DecoderConfig {
            first_norm: Some(NamedNorm::new("blocks.0.pre_ln", NormConfig::Layer(eps, Bias::Yes))),
            last_norm: Some(NamedNorm::new("ln_out", last_norm)),
            words: WordsConfig::Table { tied: fields.flag("tie_word_embeddings", false)? },
            ..DecoderConfig::new(size, blocks, DecoderNames::new(["rwkv", "embeddings", "blocks", "head"]))
        },
        eos: eos(fields, 0)?,
        rewrites: Rewrites::default(),
        context: None,
    })
}
