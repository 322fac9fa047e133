//! Models in GGUF files: their metadata as the fields of a `config.json`, their tensors under the names that the models
//! use. Everything behind that is the same as for a directory.

use longreach_gguf::{Gguf, Metadata, TensorType};
use longreach_nn::mixers::{AttentionConfig, MixerConfig};
use longreach_nn::{BranchConfig, DecoderConfig, Error as NnError, OperationConfig};
use longreach_simd::product::Format;
use serde_json::{Map, Value};

use self::keys::{Keys, Shapes};
use self::names::plus_one;
use crate::{Checkpoint, Description, Error, Fields, Rewrite, Rewrites};

mod alike;
mod contents;
mod directory;
mod encoders;
mod entries;
mod folds;
mod gemma;
mod gemma4;
mod gpt;
mod granite;
mod hybrids;
mod importance;
mod keys;
mod latent;
mod llama;
mod mamba;
mod minimax;
mod mix;
mod names;
mod parts;
mod quantise;
mod qwen;
mod rwkv;
mod tensors;

pub use self::contents::Contents;
pub use self::directory::{Floats, write_directory};
pub use self::encoders::{PoolingType, pooling};
pub(crate) use self::encoders::{encoder, is_encoder};
pub use self::importance::{Observed, importances};
pub use self::mix::{AS_STORED, MIXES, Mix};
pub use self::quantise::{Quantised, Quantising, quantise};

/// An architecture: the value of `general.architecture`, the model types that are written as it, if any, and how its files
/// are read.
struct Architecture {
    name: &'static str,
    types: &'static [&'static str],
    read: fn(&Keys<'_>) -> Result<Read, Error>,
}

/// A matrix whose heads are stored in two lists of matrices: the rows of each head are those of the first, which is
/// transposed, and then those of the second.
#[derive(Clone, Debug)]
pub(crate) struct Joined {
    /// The model's name of it.
    pub(crate) ours: String,
    /// `[heads, columns, rows]`
    pub(crate) transposed: String,
    /// `[heads, rows, columns]`
    pub(crate) plain: String,
}

/// A change of a description.
type Adjust = Box<dyn FnOnce(&mut DecoderConfig)>;

/// What the metadata say.
struct Read {
    /// The fields of a `config.json`.
    fields: Map<String, Value>,
    /// The names of the tensors.
    rewrites: Vec<Rewrite>,
    /// Whether rows of queries and keys are stored in pairs of neighbours, which rotary positions rotate.
    pairs: bool,
    /// Whether norms are stored with 1 added to their weights.
    whole_norms: bool,
    /// Changes what the fields cannot say.
    adjust: Option<Adjust>,
    /// Matrices that are stored in two tensors.
    joined: Vec<Joined>,
    /// The names of tensors that the model does not read.
    unread: Vec<String>,
}

impl Read {
    fn new(fields: Map<String, Value>, rewrites: Vec<Rewrite>) -> Self {
        Self {
            fields,
            rewrites,
            pairs: false,
            whole_norms: false,
            adjust: None,
            joined: Vec::new(),
            unread: Vec::new(),
        }
    }
}

/// The architectures that are read; those with model types are also written.
const ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "llama", types: &["llama", "mistral", "mixtral"], read: llama::llama },
    Architecture { name: "minicpm", types: &["minicpm"], read: llama::minicpm },
    Architecture { name: "qwen2", types: &["qwen2"], read: |keys| llama::plain(keys, "qwen2") },
    Architecture { name: "qwen3", types: &["qwen3"], read: |keys| llama::plain(keys, "qwen3") },
    Architecture { name: "qwen3moe", types: &["qwen3_moe"], read: llama::qwen3moe },
    Architecture { name: "phi3", types: &["phi3"], read: llama::phi3 },
    Architecture { name: "smollm3", types: &["smollm3"], read: llama::smollm3 },
    Architecture { name: "olmo2", types: &["olmo2", "olmo3"], read: llama::olmo2 },
    Architecture { name: "gpt-oss", types: &["gpt_oss"], read: llama::gpt_oss },
    Architecture { name: "gemma2", types: &["gemma2"], read: gemma::gemma2 },
    Architecture { name: "gemma3", types: &["gemma3_text", "gemma3"], read: gemma::gemma3 },
    Architecture { name: "gemma4", types: &[], read: gemma4::gemma4 },
    Architecture { name: "mamba", types: &["mamba", "falcon_mamba"], read: mamba::mamba },
    Architecture { name: "mamba2", types: &["mamba2"], read: mamba::mamba2 },
    Architecture { name: "jamba", types: &["jamba"], read: hybrids::jamba },
    Architecture { name: "falcon-h1", types: &["falcon_h1"], read: hybrids::falcon_h1 },
    Architecture { name: "granite", types: &[], read: granite::transformer },
    Architecture { name: "granitemoe", types: &[], read: granite::transformer },
    Architecture { name: "granitehybrid", types: &["granitemoehybrid"], read: granite::hybrid },
    Architecture { name: "nemotron_h", types: &["nemotron_h"], read: hybrids::nemotron },
    Architecture { name: "nemotron_h_moe", types: &[], read: hybrids::nemotron },
    Architecture { name: "lfm2", types: &["lfm2"], read: hybrids::lfm2 },
    Architecture { name: "lfm2moe", types: &["lfm2_moe"], read: hybrids::lfm2 },
    Architecture { name: "qwen3next", types: &["qwen3_next"], read: qwen::qwen3next },
    Architecture { name: "qwen35", types: &[], read: qwen::qwen35 },
    Architecture { name: "qwen35moe", types: &[], read: qwen::qwen35 },
    Architecture { name: "kimi-linear", types: &[], read: latent::kimi_linear },
    Architecture { name: "minimax-01", types: &["minimax"], read: minimax::minimax },
    Architecture { name: "rwkv6", types: &[], read: rwkv::rwkv6 },
    Architecture { name: "rwkv7", types: &[], read: rwkv::rwkv7 },
    Architecture { name: "gpt2", types: &[], read: gpt::gpt2 },
    Architecture { name: "gptneox", types: &[], read: gpt::gptneox },
];

/// The names of the architectures that are read, those of encoders last.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|architecture| architecture.name).chain(encoders::names())
}

/// A model as its metadata describe it.
pub(crate) struct Described {
    pub(crate) description: Description,
    /// The fields of its configuration, and as JSON.
    pub(crate) fields: Fields,
    pub(crate) config: String,
    /// Matrices that are stored in two tensors.
    pub(crate) joined: Vec<Joined>,
    /// See [`Read::pairs`].
    pairs: bool,
}

/// Reads the metadata of a model with these tensors. The names of the tensors, and what [`Read::adjust`] changes, are all
/// that differs from the description of the same model in a directory; rows in pairs are not put back in order. Errors if
/// the architecture is not read, or a key is missing or wrong.
fn described(metadata: &Metadata, tensors: &dyn Shapes) -> Result<Described, Error> {
    let file = metadata.file();
    if let Some(kind) = metadata.get::<&str>("general.type")?
        && kind != "model"
    {
        let message = format!("a file of the type `{kind}` is no model that writes text");
        return Err(Error::Config { file: file.into(), message });
    }
    let Read { fields, rewrites, pairs, whole_norms, adjust, joined, unread } = read(metadata, tensors)?;
    let config = Value::Object(fields).to_string();
    let fields = Fields::parse(file, &config)?;
    let mut description = Description::of(&fields)?;
    let rewrites = if whole_norms { plus_one(rewrites) } else { rewrites };
    description.rewrites = Rewrites::from(rewrites).leaving(unread);
    if let Some(adjust) = adjust {
        adjust(&mut description.decoder);
    }
    Ok(Described { description, fields, config, joined, pairs })
}

/// Reads the metadata by the function of their architecture.
fn read(metadata: &Metadata, tensors: &dyn Shapes) -> Result<Read, Error> {
    let found: &str = metadata.require("general.architecture")?;
    let Some(architecture) = ARCHITECTURES.iter().find(|architecture| architecture.name == found) else {
        let message = if encoders::names().any(|name| name == found) {
            format!("architecture `{found}` is an encoder: it embeds and searches, but cannot generate text")
        } else {
            let known = architectures().collect::<Vec<_>>().join(", ");
            format!("architecture `{found}` is not supported in GGUF files; supported are {known}")
        };
        return Err(Error::Config { file: metadata.file().into(), message });
    };
    (architecture.read)(&Keys { metadata, tensors, architecture: found })
}

/// The model in a file: it computes with the tensors as they are stored. Errors if its architecture is not read, or a key
/// is missing or wrong.
pub(crate) fn describe(gguf: &Gguf) -> Result<Described, Error> {
    let mut described = described(gguf.metadata(), gguf)?;
    if described.pairs {
        each_attention(&mut described.description.decoder, |attention| {
            attention.rotary.iter_mut().for_each(|rotary| rotary.interleaved = true);
        });
    }
    Ok(described)
}

/// The error with the name of the file, if it names only a part of the model: sizes that do not fit one another.
pub(crate) fn named(gguf: &Gguf, error: Error) -> Error {
    let file = gguf.metadata().file();
    match error {
        Error::Tensor(NnError::Origin { origin, message }) if !gguf.files().any(|name| origin.starts_with(name)) => {
            Error::Config { file: file.into(), message: format!("{origin}: {message}") }
        }
        other => other,
    }
}

/// Calls `each` with every attention of a decoder.
fn each_attention(decoder: &mut DecoderConfig, mut each: impl FnMut(&mut AttentionConfig)) {
    each_branch(decoder, |branch| {
        if let OperationConfig::Mixer(MixerConfig::Attention(attention)) = &mut branch.operation {
            each(attention);
        }
    });
}

/// Calls `each` with every branch of every block, also with those within others.
fn each_branch(decoder: &mut DecoderConfig, mut each: impl FnMut(&mut BranchConfig)) {
    fn within(branch: &mut BranchConfig, each: &mut dyn FnMut(&mut BranchConfig)) {
        each(branch);
        if let OperationConfig::Parallel(list) = &mut branch.operation {
            list.iter_mut().for_each(|branch| within(branch, each));
        }
    }
    for branch in decoder.blocks.iter_mut().flat_map(|block| &mut block.branches) {
        within(branch, &mut each);
    }
}

/// The format of blocks of a type of tensor; `None` if its elements are numbers.
pub(crate) fn format(of: TensorType) -> Option<Format> {
    use Format as F;
    use TensorType as T;
    Some(match of {
        T::Q4_0 => F::Q4_0,
        T::Q4_1 => F::Q4_1,
        T::Q5_0 => F::Q5_0,
        T::Q5_1 => F::Q5_1,
        T::Q8_0 => F::Q8_0,
        T::Q2_K => F::Q2K,
        T::Q3_K => F::Q3K,
        T::Q4_K => F::Q4K,
        T::Q5_K => F::Q5K,
        T::Q6_K => F::Q6K,
        T::IQ4_NL => F::Iq4Nl,
        T::IQ4_XS => F::Iq4Xs,
        T::MXFP4 => F::Mxfp4,
        _ => return None,
    })
}

impl Checkpoint {
    /// The tensors of a GGUF file of a model of `layers` layers, under their names in it. Further layers, which predict
    /// tokens after the next, are left alone. Errors if a type of tensor is not read, or the parts of `joined` do not fit.
    pub(crate) fn of_gguf(gguf: &Gguf, layers: usize, joined: &[Joined]) -> Result<Self, Error> {
        let mut all = Self::empty();
        for tensor in gguf.tensors() {
            let layer =
                tensor.name().strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
            if layer.is_none_or(|layer| layer < layers) {
                all.add_gguf(&tensor)?;
            }
        }
        for (name, contents) in gguf.files().zip(gguf.contents()) {
            all.add_gguf_file(name, contents);
        }
        joined.iter().try_for_each(|joined| all.join_heads(joined))?;
        Ok(all)
    }
}
