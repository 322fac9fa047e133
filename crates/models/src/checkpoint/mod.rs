//! Checkpoints as a source of weights: safetensors files, which are mapped, validated, and read without copying if
//! possible; and files of `torch.save`, which are read one tensor at a time.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use burn::tensor::{AllocationProperty, Bytes as TensorBytes, DType as BurnDType, Device, TensorData};
use bytes::Bytes;
use half::bf16;
use longreach_nn::{Error as NnError, Inputs, Layout, Precision, Source, Spec};
use longreach_simd::file::Mapped;
use longreach_simd::product::{Int8, Quantised};
use safetensors::Dtype;

use self::names::Naming;
use self::numbers::{narrow, widen};
use self::pieces::Located;
use self::stored::{Entry, Stored};
use crate::Error;

mod names;
mod numbers;
mod open;
mod packed;
mod pieces;
mod rewrite;
mod stored;
mod view;

pub(crate) use self::packed::Packing;
pub(crate) use self::pieces::{Piece, PieceKind};
pub(crate) use self::rewrite::Part;
pub use self::rewrite::{Rewrite, Rewrites, Step, Values};
pub(crate) use self::view::View;

/// The precision of a model's matrices in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// 32-bit floats.
    F32,
    /// bfloat16: the upper 16 bits of a 32-bit float.
    Bf16,
    /// 8-bit integers with one scale per row, for inference only. Embeddings, heads and everything that is not a
    /// matrix of a layer stay in f32.
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

    /// Bytes per element.
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::Bf16 => 2,
            DType::Int8 => 1,
        }
    }
}

/// The tensors of one or several checkpoint files.
#[derive(Debug)]
pub struct Checkpoint {
    files: Vec<(String, Bytes)>,
    tensors: HashMap<String, Entry>,
    dtype: Option<DType>,
    /// The mappings of the files, for those that are mapped.
    mapped: Vec<Mapped>,
    /// How the names in the files differ from the names that the model uses.
    naming: Naming,
    /// What the files store differently from the model.
    rewrites: Rewrites,
    /// The names, as in the files, of the tensors that were read.
    used: HashSet<String>,
    /// The model's names of matrices with the sums of their inputs, if they are wanted.
    inputs: Option<Vec<(String, Inputs)>>,
}

impl Checkpoint {
    /// Keeps matrices in this precision; `None` keeps the precision in which they are stored.
    pub fn keep_as(mut self, dtype: Option<DType>) -> Self {
        self.dtype = dtype;
        self
    }

    /// As [`Checkpoint::keep_as`] on the host. On another device matrices are in f32, whatever `dtype` is: its kernels have no other
    /// precision for all operations.
    pub fn keep_on(self, device: &Device, dtype: Option<DType>) -> Self {
        self.keep_as(if longreach_burn::is_host(device) { dtype } else { Some(DType::F32) })
    }

    /// Reads tensors as the model type stores them.
    #[must_use]
    pub fn rewritten(self, rewrites: Rewrites) -> Self {
        Self { rewrites, ..self }
    }

    /// Wants the sums of what matrices are multiplied by.
    #[must_use]
    pub(crate) fn observing(self) -> Self {
        Self { inputs: Some(Vec::new()), ..self }
    }

    /// The model's names of matrices with the sums of their inputs, if they are wanted.
    pub(crate) fn inputs(&self) -> &[(String, Inputs)] {
        self.inputs.as_deref().unwrap_or_default()
    }

    /// The precision of the stored matrices: the dtype of the largest tensor.
    pub fn stored(&self) -> DType {
        let floats = self.tensors.values().filter(|entry| !matches!(entry.bytes, Stored::Packed(_)));
        let largest = floats.max_by_key(|e| (e.shape.iter().product::<usize>(), e.dtype == Dtype::F32));
        match largest.map(|e| e.dtype) {
            Some(Dtype::BF16) => DType::Bf16,
            _ => DType::F32,
        }
    }

    /// The precision in which matrices are kept.
    pub fn dtype(&self) -> DType {
        self.dtype.unwrap_or_else(|| self.stored())
    }

    /// The bytes of all files, ordered by file name.
    pub fn contents(&self) -> impl Iterator<Item = &[u8]> {
        self.files.iter().map(|(_, bytes)| &bytes[..])
    }

    /// The sorted names of all tensors.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.tensors.keys().cloned().collect();
        names.sort();
        names
    }

    /// The types in which the tensors are stored if some of them are blocks of a few bits, each with its bytes, largest
    /// first; empty for other files, or if the matrices are kept in another type.
    pub fn block_types(&self) -> Vec<(String, u64)> {
        let mut types: Vec<(String, u64)> = Vec::new();
        let entries = self.tensors.values();
        if self.dtype.is_some()
            || !entries.clone().any(|entry| matches!(entry.bytes, Stored::Blocks(..) | Stored::Packed(_)))
        {
            return types;
        }
        for (name, bytes) in entries.map(Entry::type_and_bytes) {
            match types.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += bytes,
                None => types.push((name, bytes)),
            }
        }
        types.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        types
    }

    /// The shape of a tensor, by its name in the files.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| &entry.shape[..])
    }

    /// A tensor with its dtype, shape and bytes as stored.
    pub(crate) fn raw(&self, name: &str) -> Result<(Dtype, Vec<usize>, Vec<u8>), Error> {
        let Some(entry) = self.tensors.get(name) else {
            return Err(self.missing(name).into());
        };
        let (origin, _) = &self.files[entry.file];
        let wrong = |e| NnError::Origin { origin: origin.clone(), message: format!("tensor `{name}`: {e}") };
        let bytes = entry.all(&self.files).map_err(wrong)?.to_vec();
        Ok((entry.dtype, entry.shape.clone(), bytes))
    }

    /// The tensors of these names in the files, joined along their first axes. Errors unless their other sizes and types
    /// agree.
    fn joined(&self, names: &[String]) -> Result<Entry, NnError> {
        let entries: Vec<&Entry> = names.iter().map(|name| &self.tensors[name]).collect();
        let (file, dtype) = (entries[0].file, entries[0].dtype);
        let [_, rest @ ..] = &entries[0].shape[..] else { return Ok(entries[0].clone()) };
        let wrong = |message: String| NnError::Origin { origin: self.files[file].0.clone(), message };
        let format = entries[0].format().filter(|of| entries.iter().all(|entry| entry.format() == Some(*of)));
        let (mut rows, mut bytes) = (0, Vec::new());
        for (name, entry) in names.iter().zip(&entries) {
            if entry.shape.get(1..) != Some(rest) || entry.dtype != dtype {
                return Err(wrong(format!("tensor `{name}` differs from `{}` in its sizes or its type", names[0])));
            }
            rows += entry.shape[0];
            // Blocks of several formats become floats.
            let blocks = format.and_then(|_| entry.all_blocks(&self.files));
            bytes.extend_from_slice(&match blocks {
                Some(blocks) => blocks,
                None => entry.read(&View::whole(&entry.shape), &self.files).map_err(&wrong)?,
            });
        }
        let shape = [rows].iter().chain(rest).copied().collect();
        let bytes = match format {
            Some(format) => Stored::Blocks(format, bytes.into()),
            None => Stored::Apart(bytes.into()),
        };
        Ok(Entry { file, dtype, shape, bytes })
    }

    /// Drops the pages of a weight that is not read again.
    fn release(&self, spec: &Spec) {
        if let Some((stored, part)) = self.find(&spec.name)
            && let [stored] = &stored[..]
            && let Some(view) = part.view(&spec.layout.on_disk(&spec.shape))
        {
            self.tensors[stored].release(&view, &self.mapped);
        }
    }

    /// The names of the files, for errors.
    pub(crate) fn origin(&self) -> String {
        match &self.files[..] {
            [(name, _)] => name.clone(),
            files => files.first().map_or_else(String::new, |(name, _)| format!("{name} and {} more", files.len() - 1)),
        }
    }
}

impl Source for Checkpoint {
    fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn quantised(&mut self, spec: &Spec) -> Result<Option<Quantised>, NnError> {
        let [rows, width] = spec.shape[..] else { return Ok(None) };
        if self.dtype.is_none()
            && matches!(spec.precision, Precision::Matrix | Precision::Table)
            && spec.layout == Layout::Same
            && let Some((stored, part)) = self.find(&spec.name)
            && stored.iter().all(|name| self.tensors[name].format().is_some())
        {
            let joined;
            let entry = match &stored[..] {
                [one] => &self.tensors[one],
                several => {
                    joined = self.joined(several)?;
                    &joined
                }
            };
            if entry.shape == part.stored_shape(&spec.shape)
                && let Some(view) = part.view(&spec.shape)
                && let Some(blocks) = entry.blocks(&view, [rows, width], &self.files)
            {
                self.used.extend(stored);
                self.release(spec);
                return Ok(Some(Quantised::Blocks(blocks)));
            }
        }
        if self.dtype != Some(DType::Int8) || spec.precision != Precision::Matrix || width > Int8::MAX_WIDTH {
            return Ok(None);
        }
        let data = self.get(spec)?;
        let cx = longreach_burn::context();
        let quantised = match data.as_slice::<f32>() {
            Ok(numbers) => Int8::new(&cx, numbers, width),
            Err(_) => Int8::new(&cx, &data.iter::<f32>().collect::<Vec<_>>(), width),
        };
        drop(data);
        self.release(spec);
        Ok(Some(Quantised::Int8(quantised)))
    }

    fn inputs(&mut self, spec: &Spec) -> Option<Inputs> {
        let [_, width] = spec.shape[..] else { return None };
        let inputs = Inputs::new(width);
        self.inputs.as_mut()?.push((spec.name.clone(), inputs.clone()));
        Some(inputs)
    }

    fn get(&mut self, spec: &Spec) -> Result<TensorData, NnError> {
        let shape = spec.layout.on_disk(&spec.shape);
        let Located { names, entry, part, view } = self.locate(&spec.name, &shape)?;
        let (origin, _) = &self.files[entry.file];
        self.used.extend(names);
        let keep = match spec.precision {
            Precision::Full => DType::F32,
            _ if self.dtype == Some(DType::Int8) => DType::F32,
            _ => self.dtype(),
        };
        let wrong = |e| NnError::Origin { origin: origin.clone(), message: format!("tensor `{}`: {e}", spec.name) };
        let (dtype, data) = (entry.dtype, entry.read(&view, &self.files).map_err(wrong)?);
        let in_place = match (dtype, keep) {
            (Dtype::F32, DType::F32) => Some((BurnDType::F32, 4)),
            (Dtype::BF16, DType::Bf16) => Some((BurnDType::BF16, 2)),
            _ => None,
        };
        let values = part.values();
        if let Some((dtype, align)) = in_place
            && values.is_none()
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
            want: "F64, F32, BF16, F16",
            found: format!("{:?}", entry.dtype),
        };
        if keep == DType::Bf16 && values.is_none() && spec.layout == Layout::Same {
            let done = |part: Range<usize>| entry.release_bytes(&view, part, &self.mapped);
            let half = narrow(dtype, &data, done).ok_or_else(unreadable)?;
            return Ok(TensorData::new(half, spec.shape.clone()));
        }
        let mut numbers = widen(dtype, &data).ok_or_else(unreadable)?;
        if let Some(values) = values {
            numbers.iter_mut().for_each(|x| *x = values.read(*x));
        }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use longreach_nn::Init;
    use longreach_simd::product::{Blocks, Format};

    use super::*;

    /// A tensor of four rows of a block each, whose bytes count from `first`.
    fn blocks(format: Format, first: u8) -> Entry {
        let row = format.row_bytes(32).expect("a row");
        let bytes = (0..4 * row).map(|i| first.wrapping_add(i as u8)).collect::<Vec<u8>>();
        Entry { file: 0, dtype: Dtype::F32, shape: vec![4, 32], bytes: Stored::Blocks(format, bytes.into()) }
    }

    fn numbers(matrix: &Blocks) -> Vec<f32> {
        let [rows, width] = matrix.shape();
        let mut numbers = vec![0.0; rows * width];
        matrix.dequantise(&longreach_burn::context(), &mut numbers);
        numbers
    }

    fn checkpoint(list: Vec<(&str, Entry)>, rewrites: Vec<Rewrite>) -> Checkpoint {
        let mut all = Checkpoint::empty().rewritten(rewrites.into());
        all.add_gguf_file("a.gguf", Bytes::new());
        all.tensors.extend(list.into_iter().map(|(name, entry)| (name.to_owned(), entry)));
        all
    }

    /// The matrix `a` as blocks, and, by the other way, its numbers.
    fn both(checkpoint: &mut Checkpoint, rows: usize) -> (Option<Blocks>, Vec<f32>) {
        let spec = Spec {
            name: "a".into(),
            shape: vec![rows, 32],
            layout: Layout::Same,
            precision: Precision::Matrix,
            init: Init::Constant(0.0),
        };
        let blocks = checkpoint.quantised(&spec).expect("a matrix").map(|found| match found {
            Quantised::Blocks(blocks) => blocks,
            other => panic!("{other:?}"),
        });
        let numbers = checkpoint.get(&spec).expect("a matrix").iter::<f32>().collect();
        (blocks, numbers)
    }

    #[test]
    fn rows_that_lie_apart_stay_blocks() {
        let rewrite = Rewrite::new("a", "b", [Step::Paired(4)]);
        let (found, want) = both(&mut checkpoint(vec![("b", blocks(Format::Q8_0, 1))], vec![rewrite]), 4);
        assert_eq!(numbers(&found.expect("blocks")), want);
        let all = Blocks::new(Format::Q8_0, [4, 32], Arc::new((1..=136).collect::<Vec<u8>>()), 0..136).expect("blocks");
        let all = numbers(&all);
        let row = |i: usize| all[i * 32..(i + 1) * 32].to_vec();
        assert_eq!(want, [row(0), row(2), row(1), row(3)].concat());
    }

    #[test]
    fn joined_tensors_stay_blocks_if_all_are_of_one_format() {
        let rewrite = || vec![Rewrite::joined("a", &["b".into(), "c".into()], [])];
        let list = |format| vec![("b", blocks(Format::Q8_0, 1)), ("c", blocks(format, 9))];
        let mut alike = checkpoint(list(Format::Q8_0), rewrite());
        let (found, want) = both(&mut alike, 8);
        assert_eq!(numbers(&found.expect("blocks")), want);
        assert!(alike.unused().is_empty());
        let (found, want) = both(&mut checkpoint(list(Format::Q4_0), rewrite()), 8);
        assert!(found.is_none() && want.len() == 256, "several formats become floats");
    }
}
