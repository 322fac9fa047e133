//! RWKV-6 and RWKV-7 as flash-linear-attention stores them.

use longreach_nn::mixers::MixerConfig;
use longreach_nn::mixers::parts::Pointwise;
use longreach_nn::{
    Bias, BlockConfig, BranchConfig, ChannelMixConfig, ChannelMixNames, DecoderConfig, NamedNorm, NormConfig,
    OperationConfig, WordsConfig,
};

use super::fla;
use crate::description::eos;
use crate::{Description, Error, Fields, Rewrites};

/// The decoder of `rwkv6` and `rwkv7`, with the mixer of each layer.
pub(crate) fn skeleton(
    fields: &Fields,
    model_type: &'static str,
    ratio: f64,
    channel_mix: ChannelMixNames,
    mixer: impl Fn(usize, usize) -> Result<MixerConfig, Error>,
) -> Result<Description, Error> {
    let activation = fla::pointwise(fields, "hidden_act", Pointwise::Relu2)?;
    if fields.get("attn").is_some() {
        return Err(fields.error("field `attn`: attention layers are not supported for this model"));
    }
    let (hidden, layers) = (fields.size("hidden_size", 2048)?, fields.layers("num_hidden_layers", 24)?);
    let bias = Bias::from(fields.flag("norm_bias", true)?);
    let norm = NormConfig::Layer(fields.number("norm_eps", 1e-5)?, bias);
    let inner = match fields.some_size("intermediate_size")? {
        Some(inner) => inner,
        None => {
            let ratio = fields.number("hidden_ratio", ratio)?;
            fields.scaled("hidden_ratio", hidden as f64 * ratio)?.div_ceil(32) * 32
        }
    };
    let channel_mix = OperationConfig::ChannelMix(ChannelMixConfig { inner, activation, names: channel_mix });
    let block = |i: usize| {
        Ok(BlockConfig::new(vec![
            BranchConfig::mixer("attn", mixer(hidden, i)?).before("attn_norm", norm),
            BranchConfig::new("ffn", channel_mix.clone()).before("ffn_norm", norm),
        ]))
    };
    let size = [fields.size("vocab_size", 32000)?, hidden];
    let blocks = (0..layers).map(block).collect::<Result<_, Error>>()?;
    let first_norm = fields.flag("norm_first", true)?.then(|| NamedNorm::new("layers.0.pre_norm", norm));
    Ok(Description {
        model_type,
        decoder: DecoderConfig {
            first_norm,
            last_norm: Some(NamedNorm::new("norm", norm)),
            words: WordsConfig::Table { tied: fields.flag("tie_word_embeddings", false)? },
            ..DecoderConfig::new(size, blocks, fla::names())
        },
        eos: eos(fields, 2)?,
        rewrites: Rewrites::default(),
        context: None,
    })
}
