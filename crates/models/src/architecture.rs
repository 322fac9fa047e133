//! Decoder model types: from a configuration to the decoder and its mixers.

use longreach_nn::{Builder, Decoder, DecoderConfig};

use crate::encoder::{ENCODERS, architecture};
use crate::{
    Error, Fields, delta_net, falcon_mamba, gated_deltanet, gla, gpt2, hgrn2, kda, linear_attn, longreach, mamba,
    mamba_ssm, mamba2, retnet, rwkv, rwkv6, rwkv7, transfo_xl,
};

/// A supported decoder model type.
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// The mechanism of its mixers.
    pub mechanism: &'static str,
    /// The paper.
    pub paper: &'static str,
    /// Parses its configuration.
    pub describe: fn(&Fields) -> Result<Description, Error>,
}

/// All supported decoder model types.
pub const MODELS: &[Architecture] = &[
    mamba::ARCHITECTURE,
    mamba2::ARCHITECTURE,
    falcon_mamba::ARCHITECTURE,
    rwkv::ARCHITECTURE,
    rwkv6::ARCHITECTURE,
    rwkv7::ARCHITECTURE,
    retnet::ARCHITECTURE,
    linear_attn::ARCHITECTURE,
    gla::ARCHITECTURE,
    hgrn2::ARCHITECTURE,
    delta_net::ARCHITECTURE,
    gated_deltanet::ARCHITECTURE,
    kda::ARCHITECTURE,
    transfo_xl::ARCHITECTURE,
    gpt2::ARCHITECTURE,
    longreach::ARCHITECTURE,
];

/// A decoder as described by its configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// `model_type`.
    pub model_type: &'static str,
    /// The decoder and its mixers.
    pub decoder: DecoderConfig,
    /// The end-of-text tokens.
    pub eos: Vec<u32>,
}

impl Description {
    /// Parses `fields` according to their `model_type`. Errors if the type is unknown or a field is invalid.
    pub fn of(fields: &Fields) -> Result<Self, Error> {
        let Some(found) = fields.text("model_type")? else {
            if mamba_ssm::is(fields) {
                return mamba_ssm::describe(fields);
            }
            return Err(fields.error(format!("field `model_type` is missing; supported are {}", known())));
        };
        if architecture(fields)?.is_some() {
            let message = format!(
                "model_type `{found}` with this head is an encoder: it embeds, classifies, fills masks and answers questions, but cannot generate text"
            );
            return Err(fields.error(message));
        }
        let Some(model) = MODELS.iter().find(|m| m.model_type == found) else {
            return Err(Error::UnknownModel { file: fields.file().into(), found: found.into(), known: known() });
        };
        (model.describe)(fields)
    }

    /// Builds the model. Errors if a weight is missing or has another shape.
    pub fn build(&self, b: &mut Builder) -> Result<Decoder, longreach_nn::Error> {
        Decoder::new(b, &self.decoder)
    }
}

/// The supported model types, decoders first, then encoders.
pub(crate) fn known() -> String {
    let mut types: Vec<&str> = MODELS.iter().map(|m| m.model_type).collect();
    types.extend(ENCODERS.iter().map(|m| m.model_type).filter(|encoder| !types.contains(encoder)).collect::<Vec<_>>());
    types.join(", ")
}

/// The end-of-text tokens of `eos_token_id`, one or several: none if the field is `null`, and `default` if it is
/// absent.
pub(crate) fn eos(fields: &Fields, default: u32) -> Result<Vec<u32>, Error> {
    if fields.given("eos_token_id") { fields.ids("eos_token_id") } else { Ok(vec![default]) }
}

/// Errors on activations other than silu, the only one these models are published with.
pub(crate) fn silu(fields: &Fields) -> Result<(), Error> {
    match fields.text("hidden_act")? {
        None | Some("silu" | "swish") => Ok(()),
        Some(other) => Err(fields.error(format!("field `hidden_act`: want \"silu\", found \"{other}\""))),
    }
}
