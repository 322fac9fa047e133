//! Writing GGUF files, quantised or in floats, one tensor at a time.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use longreach_gguf::{Header, TensorType, split_path};
use longreach_simd::product::{Blocks, quantise_into};

use super::Contents;
use super::format;
use super::mix::{Mix, fitting};
use super::tensors::{Tensors, Whole, floats};
use crate::{Error, write_atomically};

/// How a file is quantised.
#[derive(Clone, Debug)]
pub struct Quantising {
    /// The mixture of types.
    pub mix: Mix,
    /// Whether all matrices have the type of most, whatever the mixture says of them.
    pub pure: bool,
    /// The type of the output layer, or of the table that is also one; that of the mixture if `None`.
    pub head: Option<TensorType>,
    /// Tensors of other types: a part of a name, and the type.
    pub keep: Vec<(String, TensorType)>,
    /// Whether tensors that are quantised already may be quantised once more, which loses twice.
    pub requantise: bool,
    /// What each input channel of each matrix carries: see [`importances`](super::importances).
    pub importance: HashMap<String, Vec<f32>>,
    /// The size of the largest file in bytes, if the file is split into several.
    pub split: Option<u64>,
}

impl Quantising {
    /// This mixture without further wishes.
    pub fn new(mix: Mix) -> Self {
        let (keep, importance) = (Vec::new(), HashMap::new());
        Self { mix, pure: false, head: None, keep, requantise: false, importance, split: None }
    }
}

/// What quantising a file has done.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantised {
    /// The size of the new file, or of all of its parts, in bytes.
    pub bytes: u64,
    /// The bits of a weight, on average.
    pub bits: f64,
    /// For each type: its number of weights, and the error of the quantised weights relative to the weights (root mean
    /// squares); `None` where nothing was rounded.
    pub types: Vec<(TensorType, u64, Option<f64>)>,
    /// The files that were written.
    pub files: Vec<PathBuf>,
}

/// Rows that are quantised at a time, so that no more than a few megabytes of floats are in memory.
const ROWS: usize = 256;

/// Quantises the tensors of `from` and writes them to `to`; `progress` hears the bytes read, and all bytes. Errors if a
/// tensor is not finite or already quantised, or the file cannot be written; then `to` is not changed, and of a split file
/// no part is left.
///
/// ```
/// use longreach_models::gguf::{Contents, Mix, Quantising, quantise};
/// use longreach_models::{Location, Model, Progress};
///
/// let from = Contents::of_directory(&Location::find("tests/goldens/llama-a", Progress::Hidden)?, "a model")?;
/// let folder = tempfile::tempdir()?;
/// let file = folder.path().join("model.gguf");
/// let mix = Mix::named("q8_0").expect("a mixture of this name");
/// let quantised = quantise(&from, &file, &Quantising::new(mix), &mut |_, _| ())?;
/// assert!(quantised.bits < 32.0);
///
/// let model = Model::load(&Location::find(&file, Progress::Hidden)?, None)?;
/// let hidden = model.decoder.forward(&[3, 1, 4], &mut model.decoder.start(1), None);
/// assert_eq!(hidden.dims()[1], 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn quantise(
    from: &Contents,
    to: &Path,
    how: &Quantising,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Quantised, Error> {
    let list = from.tensors.list();
    let tied = list.iter().all(|whole| whole.name != "output.weight");
    let mut header = from.header.clone();
    let types: Vec<TensorType> =
        list.iter().map(|whole| type_of(from, whole, how, tied)).collect::<Result<_, Error>>()?;
    let largest = list.iter().zip(&types).max_by_key(|(whole, _)| whole.elements()).map(|(_, kind)| *kind);
    header.set("general.file_type", how.mix.number(largest))?;
    header.set("general.quantization_version", 2u32)?;
    for (whole, kind) in list.iter().zip(&types) {
        header.declare(&whole.name, &whole.shape, *kind)?;
    }
    let parts = how.split.map_or_else(|| Ok(vec![header.clone()]), |limit| header.split(limit))?;
    let files: Vec<PathBuf> = match parts.len() {
        1 => vec![to.to_owned()],
        count => (0..count).map(|part| split_path(to, part + 1, count)).collect(),
    };
    let mut run = Run { from, how, types: &types, next: 0, done: 0, sums: Vec::new(), progress };
    for (i, (part, file)) in parts.iter().zip(&files).enumerate() {
        if let Err(e) = run.part(part, file) {
            files[..i].iter().for_each(|written| drop(std::fs::remove_file(written)));
            return Err(e);
        }
    }
    let weights: u64 = list.iter().map(|whole| whole.elements() as u64).sum();
    let bytes = parts.iter().map(Header::file_bytes).sum();
    let types = run.sums.into_iter();
    let types = types.map(|(kind, n, errors)| (kind, n, errors.map(|[error, all]| (error / all).sqrt()))).collect();
    Ok(Quantised { bytes, bits: 8.0 * bytes as f64 / weights.max(1) as f64, types, files })
}

/// Tensors on their way into one or several files.
struct Run<'a> {
    from: &'a Contents,
    how: &'a Quantising,
    types: &'a [TensorType],
    /// The next tensor.
    next: usize,
    /// Bytes that were read.
    done: u64,
    /// For each type its weights, and the squares of the errors and of the weights.
    sums: Vec<(TensorType, u64, Option<[f64; 2]>)>,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl Run<'_> {
    /// Writes a file with the tensors that its header declares, which are the next ones.
    fn part(&mut self, header: &Header, file: &Path) -> Result<(), Error> {
        let mut failed = None;
        write_atomically(file, |out| {
            // The error of this crate is kept, since that of the writer is one of the operating system.
            self.tensors(header, out).map_err(|e| {
                let shown = e.to_string();
                failed = Some(e);
                std::io::Error::other(shown)
            })
        })
        .map_err(|e| failed.take().unwrap_or(e))
    }

    fn tensors(&mut self, header: &Header, out: &mut dyn Write) -> Result<(), Error> {
        let tensors = &self.from.tensors;
        let all = tensors.list().iter().map(Whole::bytes).sum();
        let mut writer = header.clone().write_to(out)?;
        for _ in header.tensors() {
            let (whole, kind) = (&tensors.list()[self.next], self.types[self.next]);
            let data = tensors.data(self.next)?;
            writer.begin(&whole.name)?;
            let mut write = |part: &[u8]| writer.extend(part).map_err(Error::from);
            let errors = rounded(&**tensors, whole, &data, kind, self.how, &mut write)?;
            self.add(kind, whole.elements() as u64, errors);
            tensors.release(self.next);
            self.next += 1;
            self.done += whole.bytes();
            (self.progress)(self.done, all);
        }
        writer.finish()?;
        Ok(())
    }

    /// Adds up what tensors of a type lose.
    fn add(&mut self, kind: TensorType, weights: u64, errors: Option<[f64; 2]>) {
        let at = self.sums.iter().position(|(found, ..)| *found == kind).unwrap_or_else(|| {
            self.sums.push((kind, 0, None));
            self.sums.len() - 1
        });
        self.sums[at].1 += weights;
        if let Some([error, all]) = errors {
            let sum = self.sums[at].2.get_or_insert([0.0, 0.0]);
            *sum = [sum[0] + error, sum[1] + all];
        }
    }
}

/// The type of a tensor in the new file.
fn type_of(from: &Contents, whole: &Whole, how: &Quantising, tied: bool) -> Result<TensorType, Error> {
    let (name, shape) = (&whole.name[..], &whole.shape[..]);
    let width = shape.last().copied().unwrap_or(1);
    if let Some((_, kind)) = how.keep.iter().find(|(part, _)| name.contains(&part[..])) {
        return Ok(fitting(*kind, width));
    }
    let mix = if how.pure { how.mix.pure() } else { how.mix };
    let of_head = name == "output.weight" || tied && name == "token_embd.weight";
    let wanted = match how.head {
        Some(kind) if of_head => fitting(kind, width),
        _ => mix.type_of(name, shape, from.layers, tied, whole.stored),
    };
    let found = whole.kind;
    if format(found).is_some() && format(wanted).is_some() && found != wanted && !how.requantise {
        let message = format!(
            "tensor `{name}` is quantised already, to {found}: start from a file of floats, or allow the further loss with --requantize"
        );
        return Err(Error::Checkpoint { file: from.tensors.file(), message });
    }
    Ok(wanted)
}

/// Hands the bytes of a tensor in another type to `write`, some rows at a time. Returns the sums of the squares of the
/// errors and of the weights, if they were rounded to blocks.
fn rounded(
    tensors: &dyn Tensors,
    whole: &Whole,
    data: &[u8],
    kind: TensorType,
    how: &Quantising,
    write: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<Option<[f64; 2]>, Error> {
    if whole.kind == kind {
        write(data)?;
        return Ok(None);
    }
    let wrong = |message: String| Error::Checkpoint {
        file: tensors.file(),
        message: format!("tensor `{}`: {message}", whole.name),
    };
    let cx = longreach_burn::context();
    let width = whole.shape.last().copied().unwrap_or(1);
    let (rows, importance) = (whole.elements() / width, how.importance.get(&whole.name));
    // The matrices of a list each have importances of their own.
    let importance = importance.filter(|x| x.len().is_multiple_of(width) && rows.is_multiple_of(x.len() / width));
    let (rows_each, importance) = match importance {
        Some(x) if !x.is_empty() => (rows / (x.len() / width), Some(&x[..])),
        _ => (rows, None),
    };
    let (mut errors, mut lossy, mut from) = ([0.0, 0.0], false, 0);
    while from < rows {
        let nth = from / rows_each;
        let n = ROWS.min((nth + 1) * rows_each - from);
        let importance = importance.map(|x| &x[nth * width..(nth + 1) * width]);
        let numbers = numbers(whole.kind, data, from, n, width).map_err(&wrong)?;
        match format(kind) {
            None => write(&floats(&numbers, kind).ok_or_else(|| wrong(format!("the type {kind} is not written")))?)?,
            Some(format) => {
                lossy = true;
                let mut bytes = vec![0; format.row_bytes(width).unwrap_or(0) * n];
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
        from += n;
    }
    Ok((lossy && errors[1] > 0.0).then_some(errors))
}

/// `n` rows of a tensor in f32.
pub(super) fn numbers(kind: TensorType, data: &[u8], from: usize, n: usize, width: usize) -> Result<Vec<f32>, String> {
    let row = width / kind.block_elements() * kind.block_bytes();
    let bytes = &data[from * row..(from + n) * row];
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
