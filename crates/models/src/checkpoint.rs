//! Files as a source of weights: safetensors, mapped, checked, and handed out without copying where they can be; and what `torch.save` wrote, read a tensor
//! at a time.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::{AllocationProperty, Bytes as TensorBytes, DType as BurnDType, TensorData};
use bytes::Bytes;
use half::{bf16, f16};
use longreach_nn::{Error as NnError, Layout, Precision, Source, Spec};
use longreach_simd::file::Mapped;
use safetensors::{Dtype, SafeTensors};

use crate::{Error, Fields};

/// The precision a model's matrices are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// 32-bit floats.
    F32,
    /// bfloat16: the upper half of a 32-bit float.
    Bf16,
    /// 8-bit integers with a factor a row, for inference; embeddings, heads and whatever is no matrix of a layer stay in f32.
    Int8,
}

impl DType {
    /// Its name: `f32`, `bf16` or `int8`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::Int8 => "int8",
        }
    }

    /// Bytes a number takes.
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::Bf16 => 2,
            DType::Int8 => 1,
        }
    }
}

/// A tensor in a file.
#[derive(Clone, Debug)]
struct Entry {
    /// Which of the files.
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Stored,
}

/// A tensor's bytes.
#[derive(Clone)]
enum Stored {
    /// From the start of the file.
    There(Range<usize>),
    /// Read when they are asked for.
    Pickled(pytorch_reader::Tensor),
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stored::There(range) => range.fmt(f),
            Stored::Pickled(tensor) => tensor.name.fmt(f),
        }
    }
}

/// The tensors of one file or of several shards.
#[derive(Debug)]
pub struct Checkpoint {
    files: Vec<(String, Bytes)>,
    tensors: HashMap<String, Entry>,
    dtype: Option<DType>,
    /// The files again, if they are mapped.
    mapped: Vec<Mapped>,
    /// A prefix that the files leave out (checkpoints of a bare body).
    without: Option<String>,
}

impl Checkpoint {
    /// Maps `model.safetensors` in a directory, or the shards its index names.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let single = directory.join("model.safetensors");
        if single.exists() {
            return Self::open_files(&[single]);
        }
        let index = directory.join("model.safetensors.index.json");
        if index.exists() {
            return Self::open_files(&shards(&index)?);
        }
        let pickled = directory.join("pytorch_model.bin");
        if pickled.exists() {
            return Self::open_pickle(&pickled);
        }
        Err(Error::NotFound {
            name: directory.display().to_string(),
            reason: "has neither model.safetensors, nor model.safetensors.index.json, nor pytorch_model.bin".into(),
        })
    }

    /// Opens what `torch.save` wrote, of any version. A pickle is read as data: nothing in it is run.
    fn open_pickle(path: &Path) -> Result<Self, Error> {
        let wrong = |message: String| Error::Checkpoint { file: path.display().to_string(), message };
        let reader = pytorch_reader::PytorchReader::new(path)
            .map_err(|e| wrong(format!("not a checkpoint of PyTorch: {e}; `model.safetensors` is read as well")))?;
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let mapped = Mapped::new(&file).map_err(|e| Error::io(path, e))?;
        let entry = |(name, tensor): (String, pytorch_reader::Tensor)| {
            use pytorch_reader::DType as Of;
            let dtype = match tensor.dtype() {
                Of::F32 => Dtype::F32,
                Of::F16 => Dtype::F16,
                Of::BF16 => Dtype::BF16,
                Of::F64 => Dtype::F64,
                // Whatever else there is, is no weight.
                _ => Dtype::I64,
            };
            (name, Entry { file: 0, dtype, shape: tensor.shape().to_vec(), bytes: Stored::Pickled(tensor) })
        };
        Ok(Self {
            files: vec![(path.display().to_string(), Bytes::from_owner(mapped.clone()))],
            tensors: reader.into_tensors().into_iter().map(entry).collect(),
            dtype: None,
            mapped: vec![mapped],
            without: None,
        })
    }

    /// Maps safetensors files.
    pub fn open_files(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut all =
            Self { files: Vec::new(), mapped: Vec::new(), tensors: HashMap::new(), dtype: None, without: None };
        for path in paths {
            let file = File::open(path).map_err(|e| Error::io(path, e))?;
            let mapped = Mapped::new(&file).map_err(|e| Error::io(path, e))?;
            all.add(path.display().to_string(), Bytes::from_owner(mapped.clone()))?;
            all.mapped.push(mapped);
        }
        Ok(all)
    }

    /// Reads a safetensors file in memory; `name` is named in errors.
    pub fn from_bytes(name: &str, bytes: Bytes) -> Result<Self, Error> {
        let mut all =
            Self { files: Vec::new(), mapped: Vec::new(), tensors: HashMap::new(), dtype: None, without: None };
        all.add(name.into(), bytes)?;
        Ok(all)
    }

    fn add(&mut self, name: String, bytes: Bytes) -> Result<(), Error> {
        let wrong = |message: String| Error::Checkpoint { file: name.clone(), message };
        let (length, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|e| wrong(format!("not a safetensors file: {e}")))?;
        let start = 8 + length;
        for (tensor, info) in metadata.tensors() {
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            if range.end > bytes.len() {
                let (want, found) = (range.end, bytes.len());
                return Err(wrong(format!("cut short: tensor `{tensor}` ends at byte {want}, the file at {found}")));
            }
            let bytes = Stored::There(range);
            let entry = Entry { file: self.files.len(), dtype: info.dtype, shape: info.shape.clone(), bytes };
            if self.tensors.insert(tensor.clone(), entry).is_some() {
                return Err(wrong(format!("tensor `{tensor}` is in another shard too")));
            }
        }
        self.files.push((name, bytes));
        Ok(())
    }

    /// Keeps matrices in this precision rather than the one they are stored in.
    pub fn keep_as(mut self, dtype: Option<DType>) -> Self {
        self.dtype = dtype;
        self
    }

    /// Accepts files whose names lack `prefix` and the dot behind it.
    pub fn allow_without(mut self, prefix: &str) -> Self {
        let prefix = format!("{prefix}.");
        if !self.tensors.keys().any(|name| name.starts_with(&prefix)) {
            self.without = Some(prefix);
        }
        self
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        let bare = self.without.as_deref().and_then(|prefix| name.strip_prefix(prefix));
        let known = |name: &str| self.tensors.get(name).or_else(|| self.tensors.get(&old(name)?));
        known(name).or_else(|| known(bare?))
    }

    /// The precision matrices are stored in: that of the largest tensor.
    pub fn stored(&self) -> DType {
        let largest = self.tensors.values().max_by_key(|e| (e.shape.iter().product::<usize>(), e.dtype == Dtype::F32));
        match largest.map(|e| e.dtype) {
            Some(Dtype::BF16) => DType::Bf16,
            _ => DType::F32,
        }
    }

    /// The precision matrices are kept in.
    pub fn dtype(&self) -> DType {
        self.dtype.unwrap_or_else(|| self.stored())
    }

    /// The bytes of all files, in order of name.
    pub fn contents(&self) -> impl Iterator<Item = &[u8]> {
        self.files.iter().map(|(_, bytes)| &bytes[..])
    }

    /// The names of all tensors, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.tensors.keys().cloned().collect();
        names.sort();
        names
    }

    /// A tensor as it is stored.
    pub(crate) fn raw(&self, name: &str) -> Result<(Dtype, Vec<usize>, Vec<u8>), Error> {
        let Some(entry) = self.tensors.get(name) else {
            return Err(NnError::Missing { origin: self.origin(), name: name.to_owned() }.into());
        };
        let (origin, bytes) = &self.files[entry.file];
        let bytes = match &entry.bytes {
            Stored::There(range) => bytes[range.clone()].to_vec(),
            Stored::Pickled(tensor) => tensor.read().map_err(|e| {
                let message = format!("tensor `{name}`: {e}");
                NnError::Origin { origin: origin.clone(), message }
            })?,
        };
        Ok((entry.dtype, entry.shape.clone(), bytes))
    }

    fn origin(&self) -> String {
        match &self.files[..] {
            [(name, _)] => name.clone(),
            files => files.first().map_or_else(String::new, |(name, _)| format!("{name} and {} more", files.len() - 1)),
        }
    }
}

/// What a norm's weight or bias was called in the days of BERT.
fn old(name: &str) -> Option<String> {
    let norm = name.rsplit('.').nth(1).is_some_and(|part| part == "LayerNorm");
    let (of, new) = name.rsplit_once('.')?;
    match new {
        "weight" if norm => Some(format!("{of}.gamma")),
        "bias" if norm => Some(format!("{of}.beta")),
        _ => None,
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

impl Source for Checkpoint {
    fn has(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }

    fn rounds(&self) -> bool {
        self.dtype == Some(DType::Int8)
    }

    fn release(&self, name: &str) {
        if let Some(Entry { file, bytes: Stored::There(range), .. }) = self.entry(name)
            && let Some(mapped) = self.mapped.get(*file)
        {
            mapped.release(range.clone());
        }
    }

    fn get(&mut self, spec: &Spec) -> Result<TensorData, NnError> {
        let Some(entry) = self.entry(&spec.name) else {
            return Err(NnError::Missing { origin: self.origin(), name: spec.name.clone() });
        };
        let (origin, bytes) = &self.files[entry.file];
        let want = spec.layout.on_disk(&spec.shape);
        if entry.shape != want {
            let (origin, name, found) = (origin.clone(), spec.name.clone(), entry.shape.clone());
            return Err(NnError::Shape { origin, name, want, found });
        }
        let keep = match spec.precision {
            Precision::Full => DType::F32,
            Precision::Model if self.rounds() => DType::F32,
            Precision::Model => self.dtype(),
        };
        let data = match &entry.bytes {
            Stored::There(range) => bytes.slice(range.clone()),
            Stored::Pickled(tensor) => Bytes::from(tensor.read().map_err(|e| {
                let message = format!("tensor `{}`: {e}", spec.name);
                NnError::Origin { origin: origin.clone(), message }
            })?),
        };
        let in_place = match (entry.dtype, keep) {
            (Dtype::F32, DType::F32) => Some((BurnDType::F32, 4)),
            (Dtype::BF16, DType::Bf16) => Some((BurnDType::BF16, 2)),
            _ => None,
        };
        if let Some((dtype, align)) = in_place
            && spec.layout == Layout::Same
            && (data.as_ptr() as usize).is_multiple_of(align)
            && cfg!(target_endian = "little")
        {
            let shared = TensorBytes::from_shared(data, AllocationProperty::File);
            return Ok(TensorData::from_bytes(shared, spec.shape.clone(), dtype));
        }
        let unreadable = || NnError::Dtype {
            origin: origin.clone(),
            name: spec.name.clone(),
            want: "F32, BF16, F16",
            found: format!("{:?}", entry.dtype),
        };
        if keep == DType::Bf16 && spec.layout == Layout::Same {
            let done = |part: Range<usize>| {
                if let (Some(mapped), Stored::There(range)) = (self.mapped.get(entry.file), &entry.bytes) {
                    mapped.release(range.start + part.start..range.start + part.end);
                }
            };
            let half = narrow(entry.dtype, &data, done).ok_or_else(unreadable)?;
            return Ok(TensorData::new(half, spec.shape.clone()));
        }
        let numbers = widen(entry.dtype, &data).ok_or_else(unreadable)?;
        let numbers = spec.layout.to_memory(&spec.shape, numbers);
        Ok(match keep {
            DType::F32 | DType::Int8 => TensorData::new(numbers, spec.shape.clone()),
            DType::Bf16 => {
                let half: Vec<bf16> = numbers.into_iter().map(bf16::from_f32).collect();
                TensorData::new(half, spec.shape.clone())
            }
        })
    }
}

/// The numbers of a tensor rounded to bf16: in blocks, on all threads, never widened as a whole. `done` hears which bytes
/// have been read.
fn narrow(dtype: Dtype, bytes: &[u8], done: impl Fn(Range<usize>)) -> Option<Vec<bf16>> {
    const BLOCK: usize = 1 << 16;
    const BLOCKS: usize = 64;
    let size = dtype.bitsize() / 8;
    widen(dtype, &[])?;
    let mut half = vec![bf16::ZERO; bytes.len() / size];
    let parts = half.chunks_mut(BLOCKS * BLOCK).zip(bytes.chunks(BLOCKS * BLOCK * size));
    for (i, (half, bytes)) in parts.enumerate() {
        let blocks = half.chunks_mut(BLOCK).zip(bytes.chunks(BLOCK * size));
        longreach_burn::context().team.for_each(blocks, |(half, bytes)| {
            let numbers = widen(dtype, bytes).unwrap_or_default();
            half.iter_mut().zip(numbers).for_each(|(half, x)| *half = bf16::from_f32(x));
        });
        let from = i * BLOCKS * BLOCK * size;
        done(from..from + bytes.len());
    }
    Some(half)
}

/// The numbers of a tensor as f32, whatever their alignment.
fn widen(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let halves = || bytes.as_chunks::<2>().0.iter().copied();
    Some(match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::BF16 => halves().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        Dtype::F16 => halves().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        _ => return None,
    })
}
