//! Quantising a GGUF file, one tensor at a time.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use longreach_gguf::{Gguf, Header, Tensor, TensorType};
use longreach_simd::product::{Blocks, quantise_into};

use super::format;
use super::mix::{Mix, fitting};
use crate::{Error, write_atomically};

/// How a file is quantised.
#[derive(Clone, Debug)]
pub struct Quantising {
    /// The mixture of types.
    pub mix: Mix,
    /// Whether all matrices have the type of most, whatever the mixture says of them.
    pub pure: bool,
    /// Tensors of other types: a part of a name, and the type.
    pub keep: Vec<(String, TensorType)>,
    /// Whether tensors that are quantised already may be quantised once more, which loses twice.
    pub requantise: bool,
    /// What each input channel of each matrix carries: see [`importances`].
    pub importance: HashMap<String, Vec<f32>>,
}

/// What quantising a file has done.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantised {
    /// The size of the new file, in bytes.
    pub bytes: u64,
    /// The bits of a weight, on average.
    pub bits: f64,
    /// For each type: its number of weights, and the error of the quantised weights relative to the weights (root mean
    /// squares); `None` where nothing was rounded.
    pub types: Vec<(TensorType, u64, Option<f64>)>,
}

/// Rows that are quantised at a time, so that no more than a few megabytes of floats are in memory.
const ROWS: usize = 256;

/// Quantises the tensors of `from` and writes them to `to`; `progress` hears the bytes read, and all bytes. Errors if a
/// tensor is not finite or already quantised, or the file cannot be written; then `to` is not changed.
pub fn quantise(
    from: &Gguf,
    to: &Path,
    how: &Quantising,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Quantised, Error> {
    let metadata = from.metadata();
    let architecture: &str = metadata.require("general.architecture")?;
    let layers: usize = metadata.get(&format!("{architecture}.block_count"))?.unwrap_or(0);
    let tied = from.tensor("output.weight").is_none();
    let mut header = Header::new();
    header.set_all(metadata)?;
    header.set("general.file_type", how.mix.number())?;
    header.set("general.quantization_version", 2u32)?;
    let mut types = Vec::new();
    for tensor in from.tensors() {
        let kind = type_of(&tensor, how, layers, tied)?;
        header.declare(tensor.name(), tensor.shape(), kind)?;
        types.push(kind);
    }
    let (all, bytes) = (from.tensors().map(|tensor| tensor.data().len() as u64).sum(), header.file_bytes());
    let mut sums: Vec<(TensorType, u64, Option<[f64; 2]>)> = Vec::new();
    let mut failed = None;
    write_atomically(to, |out| {
        let write = || -> Result<(), Error> {
            let mut writer = header.clone().write_to(out)?;
            let mut done = 0;
            for (tensor, kind) in from.tensors().zip(&types) {
                writer.begin(tensor.name())?;
                let errors = rounded(&tensor, *kind, how, |part| writer.extend(part).map_err(Error::from))?;
                add(&mut sums, *kind, tensor.elements() as u64, errors);
                tensor.release();
                done += tensor.data().len() as u64;
                progress(done, all);
            }
            writer.finish()?;
            Ok(())
        };
        // The error of this crate is kept, since that of the writer is one of the operating system.
        write().map_err(|e| {
            let shown = e.to_string();
            failed = Some(e);
            std::io::Error::other(shown)
        })
    })
    .map_err(|e| failed.take().unwrap_or(e))?;
    let weights: u64 = from.tensors().map(|tensor| tensor.elements() as u64).sum();
    let types = sums.into_iter().map(|(kind, n, errors)| (kind, n, errors.map(|[error, all]| (error / all).sqrt())));
    Ok(Quantised { bytes, bits: 8.0 * bytes as f64 / weights.max(1) as f64, types: types.collect() })
}

/// The type of a tensor in the new file.
fn type_of(tensor: &Tensor<'_>, how: &Quantising, layers: usize, tied: bool) -> Result<TensorType, Error> {
    let (name, shape) = (tensor.name(), tensor.shape());
    let width = shape.last().copied().unwrap_or(1);
    if let Some((_, kind)) = how.keep.iter().find(|(part, _)| name.contains(&part[..])) {
        return Ok(fitting(*kind, width));
    }
    let mix = if how.pure { how.mix.pure() } else { how.mix };
    let wanted = mix.type_of(name, shape, layers, tied);
    let found = tensor.tensor_type();
    if format(found).is_some() && found != wanted && !how.requantise {
        let message = format!(
            "tensor `{name}` is quantised already, to {found}: start from a file of floats, or allow the further loss with --requantize"
        );
        return Err(Error::Checkpoint { file: tensor.file().to_owned(), message });
    }
    Ok(wanted)
}

/// Adds up what tensors of a type lose.
fn add(sums: &mut Vec<(TensorType, u64, Option<[f64; 2]>)>, kind: TensorType, weights: u64, errors: Option<[f64; 2]>) {
    let at = sums.iter().position(|(found, ..)| *found == kind).unwrap_or_else(|| {
        sums.push((kind, 0, None));
        sums.len() - 1
    });
    sums[at].1 += weights;
    if let Some([error, all]) = errors {
        let sum = sums[at].2.get_or_insert([0.0, 0.0]);
        *sum = [sum[0] + error, sum[1] + all];
    }
}

/// Hands the bytes of a tensor in another type to `write`, some rows at a time. Returns the sums of the squares of the
/// errors and of the weights, if they were rounded to blocks.
fn rounded(
    tensor: &Tensor<'_>,
    kind: TensorType,
    how: &Quantising,
    mut write: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<Option<[f64; 2]>, Error> {
    if tensor.tensor_type() == kind {
        write(tensor.data())?;
        return Ok(None);
    }
    let wrong = |message: String| Error::Checkpoint {
        file: tensor.file().to_owned(),
        message: format!("tensor `{}`: {message}", tensor.name()),
    };
    let cx = longreach_burn::context();
    let width = tensor.shape().last().copied().unwrap_or(1);
    let (rows, importance) = (tensor.elements() / width, how.importance.get(tensor.name()));
    let (mut errors, mut lossy) = ([0.0, 0.0], false);
    for from in (0..rows).step_by(ROWS) {
        let n = ROWS.min(rows - from);
        let numbers = numbers(tensor, from, n, width).map_err(&wrong)?;
        match format(kind) {
            None => write(&floats(&numbers, kind).ok_or_else(|| wrong(format!("the type {kind} is not written")))?)?,
            Some(format) => {
                lossy = true;
                let mut bytes = vec![0; format.row_bytes(width).unwrap_or(0) * n];
                let importance = importance.filter(|importance| importance.len() == width).map(|x| &x[..]);
                quantise_into(&cx, format, &numbers, width, importance, &mut bytes)
                    .map_err(|e| wrong(e.to_string()))?;
                let blocks = Blocks::from_vec(format, [n, width], bytes).map_err(|e| wrong(e.to_string()))?;
                let mut back = vec![0.0; numbers.len()];
                blocks.dequantise(&cx, &mut back);
                for (x, y) in numbers.iter().zip(&back) {
                    errors[0] += f64::from(x - y).powi(2);
                    errors[1] += f64::from(*x).powi(2);
                }
                write(blocks.bytes())?;
            }
        }
    }
    Ok((lossy && errors[1] > 0.0).then_some(errors))
}

/// `n` rows of a tensor in f32.
fn numbers(tensor: &Tensor<'_>, from: usize, n: usize, width: usize) -> Result<Vec<f32>, String> {
    let kind = tensor.tensor_type();
    let row = width / kind.block_elements() * kind.block_bytes();
    let bytes = &tensor.data()[from * row..(from + n) * row];
    Ok(match kind {
        TensorType::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        TensorType::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        TensorType::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        other => {
            let format = format(other).ok_or_else(|| format!("the type {other} is not read"))?;
            let blocks = Blocks::from_vec(format, [n, width], bytes.to_vec()).map_err(|e| e.to_string())?;
            let mut out = vec![0.0; n * width];
            blocks.dequantise(&longreach_burn::context(), &mut out);
            out
        }
    })
}

/// The bytes of numbers in a type of floats.
fn floats(numbers: &[f32], kind: TensorType) -> Option<Vec<u8>> {
    Some(match kind {
        TensorType::F32 => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
        TensorType::F16 => numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        TensorType::BF16 => numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        _ => return None,
    })
}

/// Reads a file of importances in llama.cpp's form (`general.type` `imatrix`): for each matrix the mean square of what each
/// of its input channels carried on some text. Those of experts are averaged. Errors if the file is another one.
pub fn importances(path: impl Into<PathBuf>) -> Result<HashMap<String, Vec<f32>>, Error> {
    let path = path.into();
    let file = Gguf::open(&path)?;
    let wrong = |message: String| Error::Checkpoint { file: path.display().to_string(), message };
    if file.metadata().get::<&str>("general.type")? != Some("imatrix") {
        return Err(wrong("not a file of importances: `general.type` is not `imatrix`".into()));
    }
    let mut all = HashMap::new();
    for sums in file.tensors() {
        let Some(name) = sums.name().strip_suffix(".in_sum2") else { continue };
        let counts = file.tensor(&format!("{name}.counts"));
        let counts = counts.ok_or_else(|| wrong(format!("tensor `{name}.counts` is missing")))?;
        let of = |tensor: &Tensor<'_>| numbers(tensor, 0, 1, tensor.elements()).map_err(&wrong);
        let (sums, counts) = (of(&sums)?, of(&counts)?);
        let width = sums.len() / counts.len().max(1);
        let mut mean = vec![0.0; width];
        let total: f32 = counts.iter().sum();
        for part in sums.chunks_exact(width.max(1)) {
            mean.iter_mut().zip(part).for_each(|(mean, x)| *mean += x / total.max(1.0));
        }
        all.insert(name.to_owned(), mean);
    }
    Ok(all)
}
