//! From a directory or a file to the tensors in it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use longreach_simd::file::Mapped;
use safetensors::{Dtype, SafeTensors};

use super::names::Naming;
use super::{Checkpoint, Entry, Stored};
use crate::{Error, Fields, Location, recognise};

/// The files that hold a model's weights, in the order in which they are looked for; an index names its shards.
const FILES: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// What training and adapters leave beside a model under the same endings.
const NO_WEIGHTS: [&str; 7] =
    ["adapter_", "optimizer", "scheduler", "scaler", "rng_state", "training_args", "trainer_state"];

impl Checkpoint {
    /// Opens the weights of a model: the file that was named, or those in its directory.
    pub fn at(location: &Location) -> Result<Self, Error> {
        match &location.weights {
            Some(file) => Self::open_files(std::slice::from_ref(file)),
            None => Self::open(&location.directory),
        }
    }

    /// Opens the weights in a directory: `model.safetensors` or `pytorch_model.bin`, whole or in the shards that an index names, or else the only file that
    /// ends as one of these do.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        for name in FILES {
            let file = directory.join(name);
            if file.exists() {
                return if name.ends_with(".json") {
                    Self::open_files(&shards(&file)?)
                } else {
                    Self::open_files(&[file])
                };
            }
        }
        let there: Vec<PathBuf> = std::fs::read_dir(directory)
            .map_err(|e| Error::io(directory, e))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let ends = [".safetensors", ".bin", ".pt", ".pth"].iter().any(|end| name.ends_with(end));
                ends && !NO_WEIGHTS.iter().any(|start| name.starts_with(start))
            })
            .collect();
        if let [one] = &there[..] {
            return Self::open_files(std::slice::from_ref(one));
        }
        let reason = if there.is_empty() {
            format!("has no weights: there is none of {}", FILES.join(", "))
        } else {
            let names: Vec<_> = there.iter().filter_map(|path| path.file_name()).map(|n| n.to_string_lossy()).collect();
            format!("has several files of weights and no index ({}): name one of them as the model", names.join(", "))
        };
        Err(Error::NotFound { name: directory.display().to_string(), reason })
    }

    /// Maps files of weights: safetensors, or what `torch.save` wrote, told apart by their first bytes. A pickle is read as data: nothing in it is run.
    ///
    /// An error names the file and, where its first bytes say it, what it is instead.
    pub fn open_files(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut all = Self::empty();
        for path in paths {
            let file = File::open(path).map_err(|e| Error::io(path, e))?;
            let mapped = Mapped::new(&file).map_err(|e| Error::io(path, e))?;
            let bytes = Bytes::from_owner(mapped.clone());
            if is_pickled(&bytes) {
                all.add_pickle(path, bytes)?;
            } else {
                all.add(path.display().to_string(), bytes)?;
            }
            all.mapped.push(mapped);
        }
        Ok(all)
    }

    /// Reads a safetensors file in memory; `name` is named in errors.
    pub fn from_bytes(name: &str, bytes: Bytes) -> Result<Self, Error> {
        let mut all = Self::empty();
        all.add(name.into(), bytes)?;
        Ok(all)
    }

    fn empty() -> Self {
        Self {
            files: Vec::new(),
            mapped: Vec::new(),
            tensors: HashMap::new(),
            dtype: None,
            naming: Naming::default(),
            used: HashSet::new(),
        }
    }

    fn add(&mut self, name: String, bytes: Bytes) -> Result<(), Error> {
        let wrong = |message: String| Error::Checkpoint { file: name.clone(), message };
        let (length, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| wrong(no_safetensors(&bytes, &e)))?;
        let start = 8 + length;
        for (tensor, info) in metadata.tensors() {
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            if range.end > bytes.len() {
                let (want, found) = (range.end, bytes.len());
                return Err(wrong(format!(
                    "cut short: tensor `{tensor}` ends at byte {want}, the file at {found}; download it again"
                )));
            }
            let entry = Entry {
                file: self.files.len(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                bytes: Stored::There(range),
            };
            if self.tensors.insert(tensor.clone(), entry).is_some() {
                return Err(wrong(format!("tensor `{tensor}` is in another shard too")));
            }
        }
        self.files.push((name, bytes));
        Ok(())
    }

    fn add_pickle(&mut self, path: &Path, bytes: Bytes) -> Result<(), Error> {
        let wrong = |message: String| Error::Checkpoint { file: path.display().to_string(), message };
        let reader = pytorch_reader::PytorchReader::new(path).map_err(|e| {
            wrong(format!("not a whole checkpoint of PyTorch: {e}; if it is cut short, download it again"))
        })?;
        for (name, tensor) in reader.into_tensors() {
            use pytorch_reader::DType as Of;
            let dtype = match tensor.dtype() {
                Of::F32 => Dtype::F32,
                Of::F16 => Dtype::F16,
                Of::BF16 => Dtype::BF16,
                Of::F64 => Dtype::F64,
                // Counters, masks and bytes of quantised weights, none of which is read as a weight.
                _ => Dtype::I64,
            };
            let shape = tensor.shape().to_vec();
            let entry = Entry { file: self.files.len(), dtype, shape, bytes: Stored::Pickled(tensor) };
            if self.tensors.insert(name.clone(), entry).is_some() {
                return Err(wrong(format!("tensor `{name}` is in another shard too")));
            }
        }
        self.files.push((path.display().to_string(), bytes));
        Ok(())
    }
}

/// Whether a file is one of PyTorch's formats and not safetensors, whose ninth byte opens its header.
fn is_pickled(bytes: &[u8]) -> bool {
    let pickle = bytes.first() == Some(&0x80) && bytes.get(1).is_some_and(|protocol| *protocol <= 5);
    let tar = bytes.get(257..262) == Some(b"ustar");
    bytes.get(8) != Some(&b'{') && (bytes.starts_with(b"PK\x03\x04") || pickle || tar)
}

/// The longest header that the format allows.
const LONGEST_HEADER: u64 = 100_000_000;

/// Why a file is no safetensors.
fn no_safetensors(bytes: &[u8], error: &safetensors::SafeTensorError) -> String {
    if let Some(what) = recognise(&bytes[..bytes.len().min(512)]) {
        return format!("this file is {what}");
    }
    let header = bytes.first_chunk::<8>().map(|length| u64::from_le_bytes(*length));
    match header {
        Some(length @ ..=LONGEST_HEADER) if bytes.get(8) == Some(&b'{') && length > bytes.len() as u64 - 8 => {
            format!("cut short: its header alone has {length} bytes, the file {}; download it again", bytes.len())
        }
        Some(_) if matches!(error, safetensors::SafeTensorError::MetadataIncompleteBuffer) => {
            format!("cut short, or longer than its header says ({} bytes): download it again", bytes.len())
        }
        _ => format!("not a safetensors file: {error}"),
    }
}

/// The shards an index names, each checked to be a plain file name.
fn shards(index: &Path) -> Result<Vec<PathBuf>, Error> {
    let text = std::fs::read_to_string(index).map_err(|e| Error::io(index, e))?;
    let fields = Fields::parse(index.display().to_string(), &text)?;
    let map = fields.get("weight_map").and_then(|m| m.as_object());
    let map = map.ok_or_else(|| fields.error("field `weight_map`: want an object of tensor names and files"))?;
    let mut names: Vec<&str> = Vec::new();
    for (tensor, file) in map {
        let name = file.as_str().filter(|name| Path::new(name).file_name() == Some(name.as_ref()));
        names.push(
            name.ok_or_else(|| {
                fields.error(format!("`weight_map`: tensor `{tensor}`: want a file name, found {file}"))
            })?,
        );
    }
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Err(fields.error("field `weight_map` names no files"));
    }
    Ok(names.into_iter().map(|name| index.with_file_name(name)).collect())
}
