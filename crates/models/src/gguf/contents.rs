//! What a GGUF file is to contain: the metadata and the tensors of another one, or of a model in a directory.

use bytes::Bytes;
use longreach_gguf::{Gguf, Header};

use super::alike::alike;
use super::entries::{Entries, entries};
use super::folds::Folds;
use super::keys::Shapes;
use super::names::{paired, plus_one};
use super::parts::Parts;
use super::tensors::{OfGguf, Rewritten, Tensors, Whole};
use super::{ARCHITECTURES, Read, described, read};
use crate::directory::read_config;
use crate::families::composite::text_config;
use crate::model::unused;
use crate::{Checkpoint, Description, Error, Fields, GenerationConfig, Location, Rewrites};

/// The metadata and tensors of a GGUF file to be written.
pub struct Contents {
    pub(super) header: Header,
    pub(super) tensors: Box<dyn Tensors>,
    /// The number of layers.
    pub(super) layers: usize,
    /// The rows of the embedding table.
    rows: usize,
    notes: Vec<String>,
}

impl Contents {
    /// Those of a GGUF file. Errors if its architecture or number of layers is missing.
    pub fn of_gguf(gguf: Gguf) -> Result<Self, Error> {
        let metadata = gguf.metadata();
        let architecture: &str = metadata.require("general.architecture")?;
        let layers: usize = metadata.get(&format!("{architecture}.block_count"))?.unwrap_or(0);
        let mut header = Header::new();
        header.set_all(metadata)?;
        let rows = gguf.tensor("token_embd.weight").and_then(|tensor| tensor.shape().first().copied()).unwrap_or(0);
        Ok(Self { header, layers, rows, notes: Vec::new(), tensors: Box::new(OfGguf::new(gguf)) })
    }

    /// Those of a model in a directory, without its tokenizer: `general.name` is `name`.
    ///
    /// Errors if the model type has no architecture in GGUF files, if a GGUF file cannot say what `config.json` does, or if
    /// a file is missing or invalid.
    pub fn of_directory(at: &Location, name: &str) -> Result<Self, Error> {
        let Table { fields, description, architecture, folds, entries, metadata, rewrites } = Table::of(at)?;
        let of = &description.decoder;
        let checkpoint = Checkpoint::at(at)?.named_as(&of.names.body, &of.embedding());
        let wanted = folds.decoder.clone();
        let mut tensors = Rewritten::new(checkpoint.rewritten(description.rewrites.clone()), of, &rewrites, folds)?;
        let Entries { mut header, factors, .. } = entries;
        header.set("general.name", name)?;
        factors.into_iter().for_each(|(name, numbers)| tensors.add(name, numbers));
        let read_back = described(metadata.metadata(), &Declared(&tensors))?.description;
        alike(&wanted, &read_back.decoder).map_err(|difference| {
            fields.error(format!(
                "a GGUF file of the architecture `{architecture}` cannot express this model: {difference}"
            ))
        })?;
        let notes = unused(&tensors.checkpoint.unused()).into_iter().collect();
        let (layers, rows) = (of.blocks.len(), of.vocabulary);
        Ok(Self { header, layers, rows, notes, tensors: Box::new(tensors) })
    }

    /// The metadata, for further entries.
    pub fn header_mut(&mut self) -> &mut Header {
        &mut self.header
    }

    /// The rows of the embedding table, of which each wants a token.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Notes for the user, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// How a model in a directory is written.
struct Table {
    fields: Fields,
    description: Description,
    architecture: &'static str,
    folds: Folds,
    entries: Entries,
    /// A file of the entries alone.
    metadata: Gguf,
    /// Where each weight is written.
    rewrites: Rewrites,
}

impl Table {
    fn of(at: &Location) -> Result<Self, Error> {
        let (fields, _) = read_config(&at.directory)?;
        let mut description = Description::of(&fields)?;
        if let Some(eos) = GenerationConfig::read(&at.directory)?.eos {
            description.eos = eos;
        }
        let fields = if fields.get("text_config").is_some() { text_config(&fields)? } else { fields };
        let architecture = architecture_of(&fields, &description)?;
        let folds = match architecture {
            "falcon-h1" => Folds::falcon(&fields, &description.decoder)?,
            _ => Folds::none(&description.decoder),
        };
        let parts = Parts::of(&folds.decoder);
        let mut entries = entries(architecture, &fields, &parts)?;
        special(&mut entries.header, &fields, &description.eos)?;
        let metadata = decoded(&entries.header)?;
        // The names depend on the metadata alone.
        let read = read(metadata.metadata(), &NoTensors)?;
        let rewrites = restored(read, &parts);
        Ok(Self { fields, description, architecture, folds, entries, metadata, rewrites })
    }
}

/// Where the weights of the model at a place are in its GGUF file, or in the one that it would be written as.
pub(super) fn names_in_gguf(at: &Location) -> Result<Rewrites, Error> {
    match at.gguf() {
        Some(file) => Ok(super::describe(&Gguf::open(&file)?)?.description.rewrites),
        None => Ok(Table::of(at)?.rewrites),
    }
}

/// The architecture that a model is written as. Errors if there is none.
fn architecture_of(fields: &Fields, description: &Description) -> Result<&'static str, Error> {
    let found = description.model_type;
    let Some(architecture) = ARCHITECTURES.iter().find(|one| one.types.contains(&found)) else {
        let known = ARCHITECTURES.iter().flat_map(|one| one.types).copied().collect::<Vec<_>>().join(", ");
        return Err(fields.error(format!(
            "field `model_type`: `{found}` cannot be written as GGUF: the model types that are written are {known}"
        )));
    };
    let mixes = Parts::of(&description.decoder).first(|layer| layer.experts).is_some();
    Ok(if architecture.name == "nemotron_h" && mixes { "nemotron_h_moe" } else { architecture.name })
}

/// The special tokens of `config.json`, which the tokenizer's own replace.
fn special(header: &mut Header, fields: &Fields, eos: &[u32]) -> Result<(), Error> {
    if let Some(bos) = fields.ids("bos_token_id")?.first() {
        header.set("tokenizer.ggml.bos_token_id", *bos)?;
    }
    for (name, id) in ["eos", "eot", "eom"].into_iter().zip(eos) {
        header.set(&format!("tokenizer.ggml.{name}_token_id"), *id)?;
    }
    header.set("tokenizer.ggml.model", "none")?;
    Ok(())
}

/// A file of the metadata alone, to read them back.
fn decoded(header: &Header) -> Result<Gguf, Error> {
    let bytes = header.clone().write_to(Vec::new())?.finish()?;
    Ok(Gguf::from_bytes("the GGUF file to be written", Bytes::from(bytes))?)
}

/// The names of the tensors of a file, of which rows in pairs are put back in order and norms are the model's.
pub(super) fn restored(read: Read, parts: &Parts<'_>) -> Rewrites {
    let Read { rewrites, pairs, whole_norms, unread, .. } = read;
    let rewrites = if whole_norms { plus_one(rewrites) } else { rewrites };
    let rewrites = match parts.first(|layer| layer.attention) {
        Some(attention) if pairs => paired(rewrites, attention.head_dim),
        _ => rewrites,
    };
    Rewrites::from(rewrites).leaving(unread)
}

/// No tensors.
struct NoTensors;

impl Shapes for NoTensors {
    fn count(&self) -> Option<usize> {
        None
    }

    fn shape(&self, _: &str) -> Option<&[usize]> {
        None
    }

    fn floats(&self, _: &str) -> Result<Option<Vec<f32>>, Error> {
        Ok(None)
    }
}

/// Tensors that are going to be written.
struct Declared<'a>(&'a Rewritten);

impl Declared<'_> {
    fn find(&self, name: &str) -> Option<(usize, &Whole)> {
        self.0.list().iter().enumerate().find(|(_, whole)| whole.name == name)
    }
}

impl Shapes for Declared<'_> {
    fn count(&self) -> Option<usize> {
        Some(self.0.list().len())
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.find(name).map(|(_, whole)| &whole.shape[..])
    }

    fn floats(&self, name: &str) -> Result<Option<Vec<f32>>, Error> {
        let Some((i, _)) = self.find(name) else { return Ok(None) };
        Ok(Some(self.0.data(i)?.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()))
    }
}
