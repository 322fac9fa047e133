//! What a model type says of a configuration, and the fields that most types have.

use longreach_nn::{Activation, Builder, Decoder, DecoderConfig};

use crate::{Error, Fields, Rewrites};

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

/// A decoder as described by its configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// `model_type`.
    pub model_type: &'static str,
    /// The decoder and its mixers.
    pub decoder: DecoderConfig,
    /// The end-of-text tokens.
    pub eos: Vec<u32>,
    /// What its checkpoints store differently.
    pub rewrites: Rewrites,
}

impl Description {
    /// A model whose tensors are stored as it has them.
    pub fn new(model_type: &'static str, decoder: DecoderConfig, eos: Vec<u32>) -> Self {
        Self { model_type, decoder, eos, rewrites: Rewrites::default() }
    }

    /// Builds the model. Errors if a weight is missing or has another shape.
    pub fn build(&self, b: &mut Builder) -> Result<Decoder, longreach_nn::Error> {
        Decoder::new(b, &self.decoder)
    }
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

/// The activation named by `hidden_act` or a similar field.
pub(crate) fn activation(fields: &Fields, name: &str, default: Activation) -> Result<Activation, Error> {
    Ok(match fields.text(name)? {
        None => default,
        Some("gelu" | "gelu_python") => Activation::Gelu,
        Some("gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_accurate") => Activation::GeluTanh,
        Some("relu") => Activation::Relu,
        Some("relu2" | "relu_2" | "squared_relu") => Activation::Relu2,
        Some("silu" | "swish") => Activation::Silu,
        Some("tanh") => Activation::Tanh,
        Some(other) => {
            let want = "want gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu, relu2, silu, swish or tanh";
            return Err(fields.error(format!("field `{name}`: {want}, found \"{other}\"")));
        }
    })
}
