//! What the descendants of Llama share: sizes, rotary positions, windows of some layers, and blocks of attention with a
//! gated feed-forward layer. Both spellings of `config.json` are read, that before transformers 5 and that since.

use longreach_attention::rotary::{Rotary, Scaling};
use longreach_nn::mixers::{AttentionConfig, MixerConfig, Reach};
use longreach_nn::{
    Activation, Bias, BlockConfig, BranchConfig, DecoderConfig, DecoderNames, GatedFeedForwardConfig, NamedNorm,
    NormConfig, OperationConfig, WordsConfig,
};
use serde_json::{Map, Value, json};

use super::fla::divided;
use crate::description::{activation, eos};
use crate::{Description, Error, Fields, Rewrites};

/// The values that a configuration may leave out, which differ between the model types.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    pub(crate) vocabulary: usize,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    /// The number of KV heads; `None` for as many as query heads.
    pub(crate) groups: Option<usize>,
    /// Width of a head; `None` for `hidden / heads`.
    pub(crate) head_dim: Option<usize>,
    pub(crate) inner: usize,
    pub(crate) norm_eps: f64,
    pub(crate) theta: f64,
    /// `max_position_embeddings`
    pub(crate) longest: usize,
    pub(crate) tied: bool,
    pub(crate) eos: u32,
    /// Whether positions without scaling may rotate a part of each head (`partial_rotary_factor`).
    pub(crate) partial: bool,
}

/// Those of Llama 2.
pub(crate) const LLAMA: Defaults = Defaults {
    vocabulary: 32_000,
    hidden: 4096,
    layers: 32,
    heads: 32,
    groups: None,
    head_dim: None,
    inner: 11_008,
    norm_eps: 1e-6,
    theta: 10_000.0,
    longest: 2048,
    tied: false,
    eos: 2,
    partial: false,
};

/// A configuration as it is read.
pub(crate) struct Reader<'a> {
    pub(crate) f: &'a Fields,
    pub(crate) defaults: Defaults,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) norm_eps: f64,
    heads: usize,
    groups: usize,
    head_dim: usize,
}

impl<'a> Reader<'a> {
    /// Reads the sizes. Errors if they are inconsistent.
    pub(crate) fn new(f: &'a Fields, defaults: Defaults) -> Result<Self, Error> {
        let (hidden, heads) = (f.size("hidden_size", defaults.hidden)?, f.size("num_attention_heads", defaults.heads)?);
        let groups = f.size("num_key_value_heads", defaults.groups.unwrap_or(heads))?;
        divided(f, "num_key_value_heads", heads, groups)?;
        let head_dim = match f.some_size("head_dim")?.or(defaults.head_dim) {
            Some(width) => width,
            None => divided(f, "num_attention_heads", hidden, heads)?,
        };
        Ok(Self {
            f,
            defaults,
            hidden,
            layers: f.layers("num_hidden_layers", defaults.layers)?,
            norm_eps: f.number("rms_norm_eps", defaults.norm_eps)?,
            heads,
            groups,
            head_dim,
        })
    }

    /// RMS norm with the ε of the model.
    pub(crate) fn rms(&self) -> NormConfig {
        NormConfig::Rms(self.norm_eps)
    }

    /// Attention of full reach, with the biases that `attention_bias` asks for, and without positions.
    pub(crate) fn attention(&self) -> Result<AttentionConfig, Error> {
        let bias = self.f.flag("attention_bias", false)?;
        Ok(AttentionConfig {
            groups: self.groups,
            head_dim: self.head_dim,
            bias,
            out_bias: bias,
            ..AttentionConfig::new(self.hidden, self.heads)
        })
    }

    /// The rotary positions of all layers, or, if the file has several sets, those of a kind of layers.
    pub(crate) fn rotary(&self, kind: &str) -> Result<Rotary, Error> {
        let f = self.f;
        let object = |name: &str| match f.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map.clone())),
            Some(other) => Err(f.error(format!("field `{name}`: want an object, found {other}"))),
        };
        let (field, mut map) = match object("rope_parameters")? {
            Some(map) => match map.get(kind) {
                Some(Value::Object(own)) => ("rope_parameters", own.clone()),
                Some(Value::Null) => ("rope_parameters", Map::new()),
                _ => ("rope_parameters", map),
            },
            None => ("rope_scaling", object("rope_scaling")?.unwrap_or_default()),
        };
        let number = |map: &Map<String, Value>, name: &str, default: f64| match map.get(name) {
            None | Some(Value::Null) => f.number(name, default),
            Some(value) => {
                let found = value.as_f64().filter(|x| x.is_finite());
                found.ok_or_else(|| f.error(format!("field `{field}.{name}`: want a number, found {value}")))
            }
        };
        let theta = number(&map, "rope_theta", self.defaults.theta)?;
        if theta <= 0.0 {
            return Err(f.error(format!("field `rope_theta`: want a number above 0, found {theta}")));
        }
        let part = number(&map, "partial_rotary_factor", 1.0)?;
        if !(0.0..=1.0).contains(&part) {
            return Err(f.error(format!("field `partial_rotary_factor`: want 0 to 1, found {part}")));
        }
        if let Some(older) = map.remove("type") {
            map.entry("rope_type").or_insert(older);
        }
        if let Some(kind) = map.get_mut("rope_type") {
            match kind.as_str() {
                Some("su") => *kind = "longrope".into(),
                // With text alone, the three positions of a token are the same.
                Some("mrope") => *kind = "default".into(),
                _ => {}
            }
        }
        if let Some(original) = f.some_size("original_max_position_embeddings")? {
            map.insert("original_max_position_embeddings".into(), json!(original));
        }
        let longest = f.size("max_position_embeddings", self.defaults.longest)?;
        let scaling = Scaling::from_config(&Value::Object(map), Some(longest));
        let scaling = scaling.map_err(|e| f.error(format!("field `{field}`: {e}")))?;
        let ignored = scaling == Scaling::Default && !self.defaults.partial;
        let whole = ignored || matches!(scaling, Scaling::Proportional { .. });
        let width = if whole { self.head_dim } else { (self.head_dim as f64 * part) as usize };
        Ok(Rotary { width, theta, interleaved: false, scaling })
    }

    /// Which layers attend to a window: those of `layer_types`, or those for which `slides` is true.
    pub(crate) fn sliding(&self, slides: impl Fn(usize) -> bool) -> Result<Vec<bool>, Error> {
        let Some(found) = self.f.get("layer_types") else { return Ok((0..self.layers).map(slides).collect()) };
        let kind = |kind: &Value| match kind.as_str() {
            Some("full_attention") => Some(false),
            Some("sliding_attention") => Some(true),
            _ => None,
        };
        let kinds: Option<Vec<bool>> = found.as_array().and_then(|list| list.iter().map(kind).collect());
        kinds.filter(|kinds| kinds.len() == self.layers).ok_or_else(|| {
            let want = format!("a list of {} times full_attention or sliding_attention", self.layers);
            self.f.error(format!("field `layer_types`: want {want}, found {found}"))
        })
    }

    /// The reach of layers with a window: `sliding_window`, or full if it is null.
    pub(crate) fn window(&self, default: Option<usize>) -> Result<Reach, Error> {
        let width = if self.f.given("sliding_window") { self.f.some_size("sliding_window")? } else { default };
        Ok(width.map_or(Reach::Full, Reach::Window))
    }

    /// The reach of each layer where windows are switched on by `use_sliding_window`, from the layer
    /// `max_window_layers` on (`first` if it is absent).
    pub(crate) fn windows_from(&self, first: usize) -> Result<Vec<Reach>, Error> {
        let on = self.f.flag("use_sliding_window", false)?;
        let first = self.f.count("max_window_layers", first)?;
        let window = if on { self.window(Some(4096))? } else { Reach::Full };
        let sliding = self.sliding(|i| on && i >= first)?;
        Ok(sliding.into_iter().map(|sliding| if sliding { window } else { Reach::Full }).collect())
    }

    /// The gated feed-forward layer, with the width of `intermediate_size` and the activation of `hidden_act`.
    pub(crate) fn feed_forward(&self) -> Result<GatedFeedForwardConfig, Error> {
        Ok(GatedFeedForwardConfig {
            activation: activation(self.f, "hidden_act", Activation::Silu)?,
            bias: if self.f.flag("mlp_bias", false)? { Bias::Yes } else { Bias::No },
            ..GatedFeedForwardConfig::silu(self.f.size("intermediate_size", self.defaults.inner)?)
        })
    }

    /// A pre-norm block of attention and another operation, which the file calls `name`.
    pub(crate) fn block(&self, attention: AttentionConfig, name: &str, operation: OperationConfig) -> BlockConfig {
        BlockConfig::new(vec![
            self.mixer(attention).before("input_layernorm", self.rms()),
            BranchConfig::new(name, operation).before("post_attention_layernorm", self.rms()),
        ])
    }

    /// The branch of attention.
    pub(crate) fn mixer(&self, attention: AttentionConfig) -> BranchConfig {
        BranchConfig::mixer("self_attn", MixerConfig::Attention(attention))
    }

    /// The model of these blocks.
    pub(crate) fn describe(&self, model_type: &'static str, blocks: Vec<BlockConfig>) -> Result<Description, Error> {
        let size = [self.f.size("vocab_size", self.defaults.vocabulary)?, self.hidden];
        let tied = self.f.flag("tie_word_embeddings", self.defaults.tied)?;
        Ok(Description {
            model_type,
            decoder: DecoderConfig {
                last_norm: Some(NamedNorm::new("norm", self.rms())),
                words: WordsConfig::Table { tied },
                ..DecoderConfig::new(size, blocks, names())
            },
            eos: eos(self.f, self.defaults.eos)?,
            rewrites: Rewrites::default(),
            context: None,
        })
    }
}

/// The names of the decoder's parts.
pub(crate) fn names() -> DecoderNames {
    DecoderNames::new(["model", "embed_tokens", "layers", "lm_head"])
}
