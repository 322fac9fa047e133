//! What a model type says of a configuration, and the fields that most types have.

use longreach_attention::softmax::streaming::Streaming;
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
    /// The longest text in tokens that it was trained for, if a layer attends to all tokens before; `None` if none
    /// does, or the configuration does not say.
    pub context: Option<usize>,
}

impl Description {
    /// A model whose tensors are stored as it has them.
    pub fn new(model_type: &'static str, decoder: DecoderConfig, eos: Vec<u32>) -> Self {
        Self { model_type, decoder, eos, rewrites: Rewrites::default(), context: None }
    }

    /// Bounds the KV cache of layers with full attention to the first and the most recent tokens, so that texts of any
    /// length can be read: see [`DecoderConfig::stream`]. Errors, under the name `file`, if the model does not allow it
    /// or the cache exceeds the length that it was trained for.
    pub fn stream(&mut self, file: &str, streaming: Streaming) -> Result<(), Error> {
        let wrong = |message: String| Error::Config { file: file.to_owned(), message };
        self.decoder.stream(streaming).map_err(wrong)?;
        let Streaming { sinks, recent } = streaming;
        match self.context.take() {
            Some(longest) if sinks + recent > longest => Err(wrong(format!(
                "a window of {recent} tokens beside {sinks} sinks has {} positions, but the model was trained for {longest}",
                sinks + recent
            ))),
            _ => Ok(()),
        }
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

/// The longest text that a model was trained for, as its configuration says: [`Description::context`].
pub(crate) fn context(fields: &Fields, decoder: &DecoderConfig) -> Option<usize> {
    if let Some((_, rows)) = &decoder.positions {
        return Some(*rows);
    }
    if decoder.hmt.is_some() || !decoder.attends_fully() {
        return None;
    }
    let get = |name: &str| fields.get("text_config").and_then(|text| text.get(name)).or_else(|| fields.get(name));
    // Kimi Linear and Ling call it otherwise.
    let longest = get("max_position_embeddings").or_else(|| get("model_max_length"))?.as_u64()?;
    let scaling = ["rope_scaling", "rope_parameters"].into_iter().filter_map(get).find(|value| value.is_object());
    let of = |name: &str| scaling.and_then(|scaling| scaling.get(name));
    let longest = match of("rope_type").or_else(|| of("type")).and_then(|kind| kind.as_str()) {
        // Its frequencies follow the length of the text.
        Some("dynamic") => return None,
        // The field may have kept the length before the extension.
        Some("yarn") => {
            let original = of("original_max_position_embeddings").and_then(|n| n.as_f64()).unwrap_or(0.0);
            let extended = original * of("factor").and_then(|n| n.as_f64()).unwrap_or(1.0);
            longest.max(extended as u64)
        }
        _ => longest,
    };
    usize::try_from(longest).ok().filter(|longest| *longest > 0)
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
