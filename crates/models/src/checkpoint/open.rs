//! Opening the checkpoint files of a directory.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use longreach_simd::file::Mapped;
use safetensors::{Dtype, SafeTensors};

use super::names::Naming;
use super::numbers::widen;
use super::packed::Packing;
use super::stored::{Entry, Stored};
use super::view::View;
use super::{Checkpoint, Rewrites};
use crate::gguf::Joined;
use crate::{Error, Fields, Location, recognise};

/// The weight files of a model in order of preference; an index lists its shards.
const FILES: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// Files of training and adapters that have the same extensions but contain no model weights.
const NO_WEIGHTS: [&str; 7] =
    ["adapter_", "optimizer", "scheduler", "scaler", "rng_state", "training_args", "trainer_state"];

impl Checkpoint {
    /// Opens the weights of a model: the given file, or the files in its directory. What its `config.json` says to be
    /// packed integers (GPTQ, AWQ, compressed-tensors) is read as such. Errors as [`Checkpoint::open`] and
    /// [`Checkpoint::open_files`] do, and if the packed tensors do not agree with each other.
    pub fn at(location: &Location) -> Result<Self, Error> {
        let mut all = match &location.weights {
            Some(file) => Self::open_files(std::slice::from_ref(file))?,
            None => Self::open(&location.directory)?,
        };
        if let Some(packing) = Packing::at(&location.directory)? {
            all.join_packed(packing)?;
        }
        Ok(all)
    }

    /// Opens the weights in a directory: `model.safetensors` or `pytorch_model.bin`, either a single file or the
    /// shards listed in an index; otherwise the only file with one of these extensions. Errors if there are no
    /// weights, if the choice is ambiguous, or if a file is invalid.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        Self::open_files(&Self::files_in(directory)?)
    }

    /// The files that [`Checkpoint::open`] opens. Errors if there are none, if the choice is ambiguous, or if an index is
    /// invalid.
    pub fn files_in(directory: &Path) -> Result<Vec<PathBuf>, Error> {
        for name in FILES {
            let file = directory.join(name);
            if file.exists() {
                return if name.ends_with(".json") { shards(&file) } else { Ok(vec![file]) };
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
        if there.len() == 1 {
            return Ok(there);
        }
        let reason = if there.is_empty() {
            format!("has no weights: none of the files {} exists", FILES.join(", "))
        } else {
            let names: Vec<_> = there.iter().filter_map(|path| path.file_name()).map(|n| n.to_string_lossy()).collect();
            format!("has several weight files and no index ({}): pass one of them as the model", names.join(", "))
        };
        Err(Error::NotFound { name: directory.display().to_string(), reason })
    }

    /// Maps weight files: safetensors or `torch.save`, recognised by their first bytes. Pickles are parsed as data;
    /// no code in them is executed.
    ///
    /// Errors name the file and, if its first bytes identify it, its actual type.
    pub fn open_files(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut all = Self::empty();
        for path in paths {
            let file = File::open(path).map_err(|e| Error::io(path, e))?;
            let mapped = Mapped::new(&file).map_err(|e| Error::io(path, e))?;
            mapped.prefer_huge_pages();
            let bytes = Bytes::from_owner(mapped.clone());
            if is_pickled(&bytes) {
                all.add_pickle(path, bytes)?;
            } else {
                all.add(path.display().to_string(), bytes)?;
            }
            all.mapped.push(mapped);
        }
        all.join_mxfp4();
        Ok(all)
    }

    /// Parses a safetensors file in memory; errors refer to it as `name`.
    pub fn from_bytes(name: &str, bytes: Bytes) -> Result<Self, Error> {
        let mut all = Self::empty();
        all.add(name.into(), bytes)?;
        all.join_mxfp4();
        Ok(all)
    }

    /// Adds a tensor of a GGUF file. Errors if its type is not read.
    pub(crate) fn add_gguf(&mut self, tensor: &longreach_gguf::Tensor<'_>) -> Result<(), Error> {
        use longreach_gguf::TensorType;
        let numbers = |dtype| Some((dtype, Stored::Apart(tensor.bytes())));
        let stored = match tensor.tensor_type() {
            TensorType::F32 => numbers(Dtype::F32),
            TensorType::F16 => numbers(Dtype::F16),
            TensorType::BF16 => numbers(Dtype::BF16),
            TensorType::F64 => numbers(Dtype::F64),
            other => crate::gguf::format(other).map(|format| (Dtype::F32, Stored::Blocks(format, tensor.bytes()))),
        };
        let Some((dtype, bytes)) = stored else {
            let message = format!(
                "tensor `{}` has the type {}, which is not supported: quantise the original model to another type",
                tensor.name(),
                tensor.tensor_type()
            );
            return Err(Error::Checkpoint { file: tensor.file().to_owned(), message });
        };
        let entry = Entry { file: 0, dtype, shape: tensor.shape().to_vec(), bytes };
        self.tensors.insert(tensor.name().to_owned(), entry);
        Ok(())
    }

    /// Adds a matrix that a GGUF file has in two tensors, and leaves them out. Errors if one is missing, or they are not
    /// those of as many heads and columns.
    pub(crate) fn join_heads(&mut self, joined: &Joined) -> Result<(), Error> {
        let Joined { ours, transposed, plain } = joined;
        let wrong = |message: String| {
            let file = self.files.first().map_or_else(String::new, |(name, _)| name.clone());
            Error::Checkpoint { file, message }
        };
        let numbers = |name: &str| {
            let entry = self.tensors.get(name).ok_or_else(|| wrong(format!("tensor `{name}` is missing")))?;
            let [heads, outer, inner] = entry.shape[..] else {
                return Err(wrong(format!("tensor `{name}`: want 3 axes, found {:?}", entry.shape)));
            };
            let bytes = entry.read(&View::whole(&entry.shape), &self.files);
            let numbers = bytes.ok().and_then(|bytes| widen(entry.dtype, &bytes));
            let numbers = numbers.ok_or_else(|| wrong(format!("tensor `{name}` is not of floats")))?;
            Ok::<_, Error>(([heads, outer, inner], numbers))
        };
        let ([heads, columns, first], of_first) = numbers(transposed)?;
        let (found, of_second) = numbers(plain)?;
        let [_, second, _] = found;
        if found != [heads, second, columns] {
            let message =
                format!("tensor `{plain}`: want [{heads}, rows, {columns}] beside `{transposed}`, found {found:?}");
            return Err(wrong(message));
        }
        let mut bytes = Vec::with_capacity(4 * (of_first.len() + of_second.len()));
        for (first_part, second_part) in of_first.chunks(columns * first).zip(of_second.chunks(second * columns)) {
            for row in 0..first {
                first_part.chunks(first).for_each(|column| bytes.extend_from_slice(&column[row].to_le_bytes()));
            }
            second_part.iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
        }
        let shape = vec![heads * (first + second), columns];
        self.tensors.remove(transposed);
        self.tensors.remove(plain);
        let entry = Entry { file: 0, dtype: Dtype::F32, shape, bytes: Stored::Apart(bytes.into()) };
        self.tensors.insert(ours.clone(), entry);
        Ok(())
    }

    /// Adds the contents of a GGUF file, for fingerprints.
    pub(crate) fn add_gguf_file(&mut self, name: &str, contents: Bytes) {
        self.files.push((name.to_owned(), contents));
    }

    pub(crate) fn empty() -> Self {
        Self {
            files: Vec::new(),
            mapped: Vec::new(),
            tensors: HashMap::new(),
            dtype: None,
            naming: Naming::default(),
            rewrites: Rewrites::default(),
            used: HashSet::new(),
            inputs: None,
        }
    }

    /// Joins the two tensors of which a matrix of MXFP4 consists: `…_blocks: [.., n, 16]` and `…_scales: [.., n]`, of
    /// bytes. The name of the first then stands for the matrix `[.., 32 n]`.
    fn join_mxfp4(&mut self) {
        let names: Vec<String> = self.tensors.keys().filter(|name| name.ends_with("_blocks")).cloned().collect();
        for name in names {
            let other = format!("{}_scales", name.trim_end_matches("_blocks"));
            let (Some(codes), Some(scales)) = (self.tensors.get(&name), self.tensors.get(&other)) else { continue };
            let ([outer @ .., groups, 16], [.., _]) = (&codes.shape[..], &scales.shape[..]) else { continue };
            let agree = codes.shape[..codes.shape.len() - 1] == scales.shape[..];
            let (Stored::There(from), Stored::There(by)) = (&codes.bytes, &scales.bytes) else { continue };
            if !agree || codes.dtype != Dtype::U8 || scales.dtype != Dtype::U8 {
                continue;
            }
            let shape = outer.iter().copied().chain([32 * groups]).collect();
            let bytes = Stored::Mxfp4 { codes: from.clone(), scales: (scales.file, by.clone()) };
            let entry = Entry { file: codes.file, dtype: Dtype::BF16, shape, bytes };
            self.tensors.remove(&other);
            self.tensors.insert(name, entry);
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
                    "cut short: tensor `{tensor}` ends at byte {want}, but the file has only {found} bytes; download it again"
                )));
            }
            let entry = Entry {
                file: self.files.len(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                bytes: Stored::There(range),
            };
            if self.tensors.insert(tensor.clone(), entry).is_some() {
                return Err(wrong(format!("tensor `{tensor}` is also in another shard")));
            }
        }
        self.files.push((name, bytes));
        Ok(())
    }

    fn add_pickle(&mut self, path: &Path, bytes: Bytes) -> Result<(), Error> {
        let wrong = |message: String| Error::Checkpoint { file: path.display().to_string(), message };
        let reader = pytorch_reader::PytorchReader::new(path).map_err(|e| {
            wrong(format!("not a complete PyTorch checkpoint: {e}; if it was cut short, download it again"))
        })?;
        for (name, tensor) in reader.into_tensors() {
            use pytorch_reader::DType as Of;
            let dtype = match tensor.dtype() {
                Of::F32 => Dtype::F32,
                Of::F16 => Dtype::F16,
                Of::BF16 => Dtype::BF16,
                Of::F64 => Dtype::F64,
                // Counters, masks and bytes of quantised weights, none of which are read as weights.
                _ => Dtype::I64,
            };
            let shape = tensor.shape().to_vec();
            let entry = Entry { file: self.files.len(), dtype, shape, bytes: Stored::Pickled(tensor) };
            if self.tensors.insert(name.clone(), entry).is_some() {
                return Err(wrong(format!("tensor `{name}` is also in another shard")));
            }
        }
        self.files.push((path.display().to_string(), bytes));
        Ok(())
    }
}

/// Whether a file is in one of PyTorch's formats. The ninth byte of a safetensors file opens its JSON header.
fn is_pickled(bytes: &[u8]) -> bool {
    let pickle = bytes.first() == Some(&0x80) && bytes.get(1).is_some_and(|protocol| *protocol <= 5);
    let tar = bytes.get(257..262) == Some(b"ustar");
    bytes.get(8) != Some(&b'{') && (bytes.starts_with(b"PK\x03\x04") || pickle || tar)
}

/// The longest header that the format allows, in bytes.
const LONGEST_HEADER: u64 = 100_000_000;

/// The reason why a file is not a safetensors file.
fn no_safetensors(bytes: &[u8], error: &safetensors::SafeTensorError) -> String {
    if let Some(what) = recognise(&bytes[..bytes.len().min(512)]) {
        return format!("this file is {what}");
    }
    let header = bytes.first_chunk::<8>().map(|length| u64::from_le_bytes(*length));
    match header {
        Some(length @ ..=LONGEST_HEADER) if bytes.get(8) == Some(&b'{') && length > bytes.len() as u64 - 8 => {
            format!(
                "cut short: its header has {length} bytes, but the file has only {}; download it again",
                bytes.len()
            )
        }
        Some(_) if matches!(error, safetensors::SafeTensorError::MetadataIncompleteBuffer) => {
            format!("cut short, or longer than its header says ({} bytes); download it again", bytes.len())
        }
        _ => format!("not a safetensors file: {error}"),
    }
}

/// The shards of an index, each of which must be a plain file name.
fn shards(index: &Path) -> Result<Vec<PathBuf>, Error> {
    let text = std::fs::read_to_string(index).map_err(|e| Error::io(index, e))?;
    let fields = Fields::parse(index.display().to_string(), &text)?;
    let map = fields.get("weight_map").and_then(|m| m.as_object());
    let map = map.ok_or_else(|| fields.error("field `weight_map`: want an object that maps tensor names to files"))?;
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
