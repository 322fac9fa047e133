//! The metadata of a GGUF file as the fields of a `config.json`.

use longreach_gguf::{Gguf, Metadata, OneOrMany, TensorType};
use serde_json::{Map, Value, json};

use crate::Error;

/// The largest size or count, as of the fields of a `config.json`.
const LARGEST: u64 = 1 << 28;

/// The tensors beside the metadata: those of a file, or those that a file is going to have.
pub(super) trait Shapes {
    /// The number of tensors; `None` if they are not known yet.
    fn count(&self) -> Option<usize>;

    /// The shape of a tensor, outermost first; `None` if there is no such tensor.
    fn shape(&self, name: &str) -> Option<&[usize]>;

    /// The numbers of a small tensor of f32; `None` if there is no such tensor.
    fn floats(&self, name: &str) -> Result<Option<Vec<f32>>, Error>;
}

impl Shapes for Gguf {
    fn count(&self) -> Option<usize> {
        Some(self.tensors().len())
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensor(name).map(|tensor| tensor.shape())
    }

    fn floats(&self, name: &str) -> Result<Option<Vec<f32>>, Error> {
        let Some(tensor) = self.tensor(name) else { return Ok(None) };
        if tensor.tensor_type() != TensorType::F32 {
            let message = format!("tensor `{name}`: want F32, found {}", tensor.tensor_type());
            return Err(Error::Checkpoint { file: tensor.file().to_owned(), message });
        }
        Ok(Some(tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()))
    }
}

/// The keys of one architecture.
pub(super) struct Keys<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) tensors: &'a dyn Shapes,
    pub(super) architecture: &'a str,
}

impl<'a> Keys<'a> {
    /// The key of the architecture: `llama.block_count` for `block_count`.
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    pub(super) fn error(&self, name: &str, message: impl std::fmt::Display) -> Error {
        let file = self.metadata.file().to_owned();
        Error::Config { file, message: format!("key `{}`: {message}", self.key(name)) }
    }

    /// An integer; `None` if the key is absent. Errors if it is larger than any size or count of a model.
    pub(super) fn some(&self, name: &str) -> Result<Option<u64>, Error> {
        let found: Option<u64> = self.metadata.get(&self.key(name))?;
        match found {
            Some(n) if n > LARGEST => Err(self.error(name, format!("want at most {LARGEST}, found {n}"))),
            found => Ok(found),
        }
    }

    /// A size or a count that must be there. Errors as [`Keys::some`] does, or if it is 0.
    pub(super) fn size(&self, name: &str) -> Result<u64, Error> {
        match self.some(name)? {
            Some(0) => Err(self.error(name, "want at least 1, found 0")),
            Some(n) => Ok(n),
            None => self.metadata.require(&self.key(name)).map_err(Error::from),
        }
    }

    /// A number; `None` if the key is absent. One that is stored as f32 is the shortest decimal that rounds to it, since
    /// that is what a `config.json` has: `1e-6` instead of `9.999999974752427e-7`.
    pub(super) fn number(&self, name: &str) -> Result<Option<f64>, Error> {
        let found: Option<f64> = self.metadata.get(&self.key(name))?;
        Ok(found.map(|x| match x as f32 {
            short if f64::from(short) == x => short.to_string().parse().unwrap_or(x),
            _ => x,
        }))
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, Error> {
        self.metadata.get(&self.key(name)).map_err(Error::from)
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, Error> {
        self.metadata.get(&self.key(name)).map_err(Error::from)
    }

    /// A number of each layer; `None` if the key is absent.
    pub(super) fn of_layers(&self, name: &str, layers: u64) -> Result<Option<Vec<u64>>, Error> {
        let found: Option<OneOrMany<u64>> = self.metadata.get(&self.key(name))?;
        let Some(found) = found else { return Ok(None) };
        let of = |layer: u64| found.at(layer as usize).copied();
        let all: Option<Vec<u64>> = (0..layers).map(of).collect();
        let wrong = || self.error(name, format!("the list is shorter than the {layers} layers"));
        let all = all.ok_or_else(wrong)?;
        match all.iter().find(|n| **n > LARGEST) {
            Some(n) => Err(self.error(name, format!("want at most {LARGEST}, found {n}"))),
            None => Ok(Some(all)),
        }
    }

    /// Which layers a list of flags, or a number for every so many, marks; `None` if the key is absent.
    pub(super) fn marks(
        &self,
        name: &str,
        layers: u64,
        every: impl Fn(u64, u64) -> bool,
    ) -> Result<Option<Vec<bool>>, Error> {
        let key = self.key(name);
        let Some(value) = self.metadata.value(&key) else { return Ok(None) };
        if let Ok(list) = value.to::<Vec<bool>>() {
            let wrong = || self.error(name, format!("want {layers} flags, one for each layer, found {}", list.len()));
            let list: Vec<bool> = list.iter().copied().take(layers as usize).collect();
            return if list.len() as u64 == layers { Ok(Some(list)) } else { Err(wrong()) };
        }
        let n: u64 = value.to()?;
        Ok(Some((0..layers).map(|layer| n > 0 && every(layer, n)).collect()))
    }

    /// The number of layers, without those that predict further tokens. Errors if the file has fewer tensors.
    pub(super) fn layers(&self) -> Result<u64, Error> {
        let all = self.size("block_count")?;
        if let Some(tensors) = self.tensors.count().filter(|tensors| all > *tensors as u64) {
            return Err(self.error("block_count", format!("{all} layers in a file of {tensors} tensors")));
        }
        let further = self.some("nextn_predict_layers")?.unwrap_or(0);
        all.checked_sub(further).filter(|layers| *layers > 0).ok_or_else(|| {
            self.error("block_count", format!("{all} layers, of which {further} predict further tokens"))
        })
    }

    /// The shape of a tensor, outermost first.
    pub(super) fn shape(&self, name: &str) -> Option<&'a [usize]> {
        self.tensors.shape(name)
    }

    /// The fields that most architectures have: sizes, norms, positions, ends.
    pub(super) fn common(&self, model_type: &str) -> Result<Map<String, Value>, Error> {
        let mut fields = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                fields.insert(name.into(), value);
            }
        };
        set("model_type", Some(json!(model_type)));
        set("hidden_size", Some(json!(self.size("embedding_length")?)));
        set("num_hidden_layers", Some(json!(self.layers()?)));
        set("max_position_embeddings", self.some("context_length")?.map(Value::from));
        let rows = self.shape("token_embd.weight").and_then(|shape| shape.first().copied());
        set("vocab_size", rows.map(Value::from));
        set("tie_word_embeddings", Some(json!(self.shape("output.weight").is_none())));
        let eps = self.number("attention.layer_norm_rms_epsilon")?;
        for name in ["rms_norm_eps", "norm_eps", "layer_norm_epsilon"] {
            set(name, eps.map(Value::from));
        }
        let token = |name: &str| self.metadata.get::<u64>(&format!("tokenizer.ggml.{name}_token_id"));
        set("bos_token_id", token("bos")?.map(Value::from));
        let mut ends: Vec<u64> = Vec::new();
        for name in ["eos", "eot", "eom"] {
            ends.extend(token(name)?.filter(|id| !ends.contains(id)));
        }
        set("eos_token_id", Some(json!(ends)));
        Ok(fields)
    }

    /// The fields of attention with rotary positions, and of gated feed-forward layers.
    pub(super) fn transformer(&self, model_type: &str) -> Result<Map<String, Value>, Error> {
        let mut fields = self.common(model_type)?;
        let layers = self.layers()?;
        let heads = self.of_layers("attention.head_count", layers)?.and_then(|list| list.into_iter().max());
        let heads = heads.filter(|heads| *heads > 0);
        let heads = heads.ok_or_else(|| self.error("attention.head_count", "want at least one head"))?;
        fields.insert("num_attention_heads".into(), json!(heads));
        let groups = self.of_layers("attention.head_count_kv", layers)?.and_then(|list| list.into_iter().max());
        fields.insert("num_key_value_heads".into(), json!(groups.filter(|groups| *groups > 0).unwrap_or(heads)));
        if let Some(width) = self.some("attention.key_length")? {
            fields.insert("head_dim".into(), json!(width));
        }
        let inner = self.of_layers("feed_forward_length", layers)?.and_then(|list| list.into_iter().max());
        if let Some(inner) = inner.filter(|inner| *inner > 0) {
            fields.insert("intermediate_size".into(), json!(inner));
        }
        fields.insert("rope_parameters".into(), self.positions()?);
        Ok(fields)
    }

    /// The rotary positions, as `rope_parameters`.
    fn positions(&self) -> Result<Value, Error> {
        let mut rope = Map::new();
        rope.insert("rope_theta".into(), json!(self.number("rope.freq_base")?.unwrap_or(10_000.0)));
        let divisors = |name: &str| self.tensors.floats(name);
        let original = self.some("rope.scaling.original_context_length")?;
        let factor = self.number("rope.scaling.factor")?.or(self.number("rope.scale_linear")?);
        if let Some(divisors) = divisors("rope_freqs.weight")? {
            // Llama 3's scaling, already computed: each frequency has a divisor of its own.
            rope.insert("rope_type".into(), json!("longrope"));
            rope.insert("attention_factor".into(), json!(1.0));
            rope.insert("long_factor".into(), json!(divisors));
            rope.insert("short_factor".into(), json!(divisors));
            let longest = self.some("context_length")?.unwrap_or(1);
            rope.insert("original_max_position_embeddings".into(), json!(longest));
            return Ok(Value::Object(rope));
        }
        if let (Some(long), Some(short)) =
            (divisors("rope_factors_long.weight")?, divisors("rope_factors_short.weight")?)
        {
            rope.insert("rope_type".into(), json!("longrope"));
            rope.insert("long_factor".into(), json!(long));
            rope.insert("short_factor".into(), json!(short));
            if let Some(by) = self.number("rope.scaling.attn_factor")? {
                rope.insert("attention_factor".into(), json!(by));
            }
            rope.insert("original_max_position_embeddings".into(), json!(original));
            return Ok(Value::Object(rope));
        }
        match self.text("rope.scaling.type")? {
            None | Some("none") => {}
            // Its factors are tensors.
            Some("longrope") if self.tensors.count().is_none() => {}
            Some(kind @ ("linear" | "yarn")) => {
                rope.insert("rope_type".into(), json!(kind));
                rope.insert("factor".into(), json!(factor.unwrap_or(1.0)));
                if kind == "yarn" {
                    for (name, key) in
                        [("beta_fast", "rope.scaling.yarn_beta_fast"), ("beta_slow", "rope.scaling.yarn_beta_slow")]
                    {
                        if let Some(x) = self.number(key)? {
                            rope.insert(name.into(), json!(x));
                        }
                    }
                    if let Some(by) = self.number("rope.scaling.yarn_attn_factor")? {
                        rope.insert("attention_factor".into(), json!(by));
                    }
                    if let Some(original) = original {
                        rope.insert("original_max_position_embeddings".into(), json!(original));
                    }
                }
            }
            Some(other) => {
                return Err(self.error("rope.scaling.type", format!("want none, linear or yarn, found \"{other}\"")));
            }
        }
        Ok(Value::Object(rope))
    }
}
