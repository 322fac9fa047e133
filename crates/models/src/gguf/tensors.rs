//! The tensors of a file to be written, made one at a time: those of another GGUF file, or of a checkpoint whose names and
//! conventions are others.

use std::collections::HashMap;

use burn::tensor::{AllocationProperty, Bytes as TensorBytes, DType as BurnDType, TensorData};
use bytes::Bytes;
use half::{bf16, f16};
use longreach_gguf::{Gguf, TensorType};
use longreach_nn::Decoder;
use longreach_nn::{Builder, DecoderConfig, Error as NnError, Source, Spec};
use safetensors::Dtype;

use super::folds::{Folds, multiply};
use crate::checkpoint::{Part, Piece, PieceKind, View};
use crate::{Checkpoint, Error, Rewrites, Values};

/// A tensor of a file to be written.
#[derive(Clone, Debug)]
pub(super) struct Whole {
    pub(super) name: String,
    /// Outermost first.
    pub(super) shape: Vec<usize>,
    /// The type of its elements as they are read.
    pub(super) kind: TensorType,
    /// The type in which they are stored.
    pub(super) stored: TensorType,
}

impl Whole {
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    pub(super) fn bytes(&self) -> u64 {
        (self.elements() / self.kind.block_elements() * self.kind.block_bytes()) as u64
    }
}

/// Tensors to be written, in order.
pub(super) trait Tensors {
    /// What they are called, and how large they are.
    fn list(&self) -> &[Whole];

    /// The name of the file they come from, for errors.
    fn file(&self) -> String;

    /// The elements of a tensor, in its stored type.
    fn data(&self, i: usize) -> Result<Bytes, Error>;

    /// Drops the pages of a tensor that is not read again.
    fn release(&self, i: usize);
}

/// The tensors of a GGUF file.
pub(super) struct OfGguf {
    pub(super) gguf: Gguf,
    list: Vec<Whole>,
}

impl OfGguf {
    pub(super) fn new(gguf: Gguf) -> Self {
        let whole = |tensor: longreach_gguf::Tensor<'_>| Whole {
            name: tensor.name().to_owned(),
            shape: tensor.shape().to_vec(),
            kind: tensor.tensor_type(),
            stored: tensor.tensor_type(),
        };
        let list = gguf.tensors().map(whole).collect();
        Self { gguf, list }
    }
}

impl Tensors for OfGguf {
    fn list(&self) -> &[Whole] {
        &self.list
    }

    fn file(&self) -> String {
        self.gguf.metadata().file().to_owned()
    }

    fn data(&self, i: usize) -> Result<Bytes, Error> {
        Ok(self.gguf.tensor(&self.list[i].name).map(|tensor| tensor.bytes()).unwrap_or_default())
    }

    fn release(&self, i: usize) {
        self.gguf.tensor(&self.list[i].name).iter().for_each(longreach_gguf::Tensor::release);
    }
}

/// The weights of a model, read as one file stores them and put together as another does.
pub(super) struct Rewritten {
    pub(super) checkpoint: Checkpoint,
    list: Vec<Whole>,
    /// The parts of each tensor.
    parts: Vec<Vec<Weight>>,
    factors: HashMap<String, super::folds::Rows>,
    /// Tensors that are no weights of the model, after those that are.
    more: Vec<Vec<f32>>,
}

/// A weight of the model: its name, its shape in files, and its part of the tensor that it is written to.
struct Weight {
    name: String,
    shape: Vec<usize>,
    part: Part,
}

impl Rewritten {
    /// The weights of `decoder` in `checkpoint`, as tensors that `to` leads to. Errors if a weight is missing or has
    /// another shape, or if parts of a tensor do not fit together.
    pub(super) fn new(
        mut checkpoint: Checkpoint,
        decoder: &DecoderConfig,
        to: &Rewrites,
        folds: Folds,
    ) -> Result<Self, Error> {
        let (mut list, mut parts) = (Vec::<Whole>::new(), Vec::<Vec<Weight>>::new());
        let mut places = HashMap::<String, usize>::new();
        for spec in specs(decoder, &checkpoint)? {
            let shape = spec.layout.on_disk(&spec.shape);
            let PieceKind { dtype, mxfp4, values } = checkpoint.piece_kind(&spec.name, &shape)?;
            checkpoint.mark_used(&spec.name);
            let one = to.of(&spec.name).find_map(|(files, part)| Some((<[String; 1]>::try_from(files).ok()?, part)));
            let (name, part) = one.map_or_else(|| (spec.name.clone(), Part::default()), |([name], part)| (name, part));
            // Functions of values are rounded to f32 alone.
            let kind = if values == part.values() { kind(dtype) } else { TensorType::F32 };
            let stored = if mxfp4 { TensorType::MXFP4 } else { kind };
            let whole = part.stored_shape(&shape);
            let at = *places.entry(name.clone()).or_insert_with(|| {
                list.push(Whole { name: name.clone(), shape: whole.clone(), kind, stored });
                parts.push(Vec::new());
                list.len() - 1
            });
            if list[at].shape != whole || part.view(&shape).is_none() {
                let want = &list[at].shape;
                let message = format!("tensor `{}` of {shape:?} is no part of `{name}`, which has {want:?}", spec.name);
                return Err(Error::Checkpoint { file: checkpoint.origin(), message });
            }
            if list[at].kind != kind || list[at].stored != stored {
                (list[at].kind, list[at].stored) = (TensorType::F32, TensorType::F32);
            }
            parts[at].push(Weight { name: spec.name, shape, part });
        }
        for (whole, parts) in list.iter().zip(&parts) {
            let found: usize = parts.iter().map(|weight| weight.shape.iter().product::<usize>()).sum();
            if found != whole.elements() {
                let want = whole.elements();
                let message = format!("tensor `{}`: want {want} numbers, found {found}", whole.name);
                return Err(Error::Checkpoint { file: checkpoint.origin(), message });
            }
        }
        Ok(Self { checkpoint, list, parts, factors: folds.of, more: Vec::new() })
    }

    /// Adds a tensor of one axis that is no weight of the model.
    pub(super) fn add(&mut self, name: &str, numbers: Vec<f32>) {
        let (kind, stored) = (TensorType::F32, TensorType::F32);
        self.list.push(Whole { name: name.to_owned(), shape: vec![numbers.len()], kind, stored });
        self.more.push(numbers);
    }

    /// The numbers of a weight as the target stores them.
    fn numbers(&self, weight: &Weight, piece: &Piece, to: Option<Values>) -> Option<Vec<f32>> {
        let mut numbers = piece.numbers()?;
        if let Some(values) = piece.values.filter(|values| Some(*values) != to) {
            numbers.iter_mut().for_each(|x| *x = values.read(*x));
        }
        if let Some(factors) = self.factors.get(&weight.name) {
            multiply(&mut numbers, weight.shape.first().copied().unwrap_or(1), factors);
        }
        if let Some(values) = to.filter(|values| Some(*values) != piece.values) {
            numbers.iter_mut().for_each(|x| *x = values.written(*x));
        }
        Some(numbers)
    }

    /// The elements of a weight in a type.
    fn elements(&self, weight: &Weight, to: TensorType) -> Result<Bytes, Error> {
        let piece = self.checkpoint.piece(&weight.name, &weight.shape)?;
        let values = weight.part.values();
        let same = values == piece.values && !self.factors.contains_key(&weight.name);
        if same && kind(piece.dtype) == to && piece.dtype != Dtype::F64 {
            return Ok(piece.bytes);
        }
        let bytes = self.numbers(weight, &piece, values).and_then(|numbers| floats(&numbers, to));
        bytes.map(Bytes::from).ok_or_else(|| {
            let message = format!("tensor `{}`: {:?} is not written as {to}", weight.name, piece.dtype);
            Error::Checkpoint { file: self.checkpoint.origin(), message }
        })
    }
}

impl Tensors for Rewritten {
    fn list(&self) -> &[Whole] {
        &self.list
    }

    fn file(&self) -> String {
        self.checkpoint.origin()
    }

    fn data(&self, i: usize) -> Result<Bytes, Error> {
        let whole = &self.list[i];
        let Some(parts) = self.parts.get(i) else {
            let numbers = &self.more[i - self.parts.len()];
            return Ok(floats(numbers, TensorType::F32).unwrap_or_default().into());
        };
        let view = |weight: &Weight| weight.part.view(&weight.shape);
        if let [one] = &parts[..]
            && view(one).is_some_and(|view| view.is_contiguous())
        {
            return self.elements(one, whole.kind);
        }
        let size = whole.kind.block_bytes();
        let mut all = vec![0; whole.elements() * size];
        for weight in parts {
            let (bytes, Some(view)) = (self.elements(weight, whole.kind)?, view(weight)) else { continue };
            place(&bytes, size, &view, &mut all);
        }
        Ok(all.into())
    }

    fn release(&self, i: usize) {
        for weight in self.parts.get(i).into_iter().flatten() {
            self.checkpoint.release_piece(&weight.name, &weight.shape);
        }
    }
}

/// Puts elements of `size` bytes where a view has them.
fn place(elements: &[u8], size: usize, view: &View, all: &mut [u8]) {
    if view.is_contiguous() {
        let start = view.bounds().start * size;
        all[start..start + elements.len()].copy_from_slice(elements);
        return;
    }
    let mut elements = elements.chunks_exact(size);
    view.each(|at| {
        if let Some(element) = elements.next() {
            all[at * size..(at + 1) * size].copy_from_slice(element);
        }
    });
}

/// The type of tensors for elements of a type: f32 for those that have none.
fn kind(dtype: Dtype) -> TensorType {
    match dtype {
        Dtype::F16 => TensorType::F16,
        Dtype::BF16 => TensorType::BF16,
        _ => TensorType::F32,
    }
}

/// The bytes of numbers in a type of floats; `None` for other types.
pub(super) fn floats(numbers: &[f32], kind: TensorType) -> Option<Vec<u8>> {
    Some(match kind {
        TensorType::F32 => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
        TensorType::F16 => numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        TensorType::BF16 => numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        _ => return None,
    })
}

/// The weights that a model asks for, in its order. Errors if the model cannot be built.
fn specs(decoder: &DecoderConfig, checkpoint: &Checkpoint) -> Result<Vec<Spec>, Error> {
    let mut asked = Asked { checkpoint, specs: Vec::new(), zeros: Bytes::new() };
    Decoder::new(&mut Builder::new(&mut asked, &longreach_burn::cpu()), decoder)?;
    Ok(asked.specs)
}

/// A source that remembers what it is asked for, and has only zeros: pages that are never touched, since nothing computes with
/// them.
struct Asked<'a> {
    checkpoint: &'a Checkpoint,
    specs: Vec<Spec>,
    zeros: Bytes,
}

impl Source for Asked<'_> {
    fn get(&mut self, spec: &Spec) -> Result<TensorData, NnError> {
        // The sizes are those of the configuration until a tensor agrees with them.
        self.checkpoint.piece_kind(&spec.name, &spec.layout.on_disk(&spec.shape))?;
        let bytes = 4 * spec.shape.iter().product::<usize>();
        if self.zeros.len() < bytes {
            self.zeros = vec![0; bytes].into();
        }
        self.specs.push(spec.clone());
        let shared = TensorBytes::from_shared(self.zeros.slice(..bytes), AllocationProperty::File);
        Ok(TensorData::from_bytes(shared, spec.shape.clone(), BurnDType::F32))
    }

    fn has(&self, name: &str) -> bool {
        self.checkpoint.has(name)
    }
}
