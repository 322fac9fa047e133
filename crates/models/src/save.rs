//! Saving models in the format of Hugging Face.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType as BurnDType, Tensor};
use half::bf16;
use longreach_nn::Names;
use safetensors::tensor::{Dtype, TensorView};

use crate::{DType, EncoderModel, Error, Model, Rewrites};

/// Checks that `file` can be written, without writing it: its directory exists and is writable, it is not a
/// directory, and it is none of the files in `read`, whatever paths name them.
///
/// Intended for the outputs of long computations, which would otherwise fail at the end, or overwrite their input.
pub fn check_writable(file: &Path, read: &[&Path]) -> Result<(), Error> {
    use std::io::ErrorKind;
    let refused = |kind: ErrorKind, message: String| Error::io(file, std::io::Error::new(kind, message));
    if file.is_dir() {
        return Err(refused(ErrorKind::IsADirectory, "is a directory, want a file".into()));
    }
    if let Ok(there) = file.canonicalize()
        && let Some(same) = read.iter().find(|read| read.canonicalize().is_ok_and(|read| read == there))
    {
        let message = format!("would be written over {}, which is an input: choose another output", same.display());
        return Err(refused(ErrorKind::AlreadyExists, message));
    }
    let directory = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let probe = tempfile::Builder::new().prefix(".longreach-").tempfile_in(directory);
    let why = |e: &std::io::Error| match e.kind() {
        ErrorKind::NotFound => "its directory does not exist".to_owned(),
        kind => kind.to_string(),
    };
    probe.map(|_| ()).map_err(|e| refused(e.kind(), format!("cannot be written: {}", why(&e))))
}

/// Writes `file` atomically: to a temporary file in the same directory, which is then renamed. On an error, an
/// existing file stays unchanged.
pub fn write_atomically(file: &Path, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<(), Error> {
    let directory = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let attempt = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".longreach-");
        // The permissions of an ordinary new file, since a temporary file is private.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut temporary = builder.tempfile_in(directory)?;
        let mut buffered = std::io::BufWriter::new(&mut temporary);
        write(&mut buffered)?;
        buffered.flush()?;
        drop(buffered);
        temporary.as_file().sync_all()?;
        temporary.persist(file).map_err(|e| e.error)?;
        Ok(())
    };
    attempt().map_err(|e| Error::io(file, e))
}

impl Model {
    /// Writes the weights to a safetensors file, as the model type stores them: matrices in `dtype`, all other weights
    /// in f32. Errors if the file cannot be written.
    pub fn save(&self, dtype: DType, file: &Path) -> Result<(), Error> {
        save_module(&self.decoder, &self.names, dtype, &self.description.rewrites, file)
    }
}

impl EncoderModel {
    /// Writes the weights of the encoder, its pooler and its head to a safetensors file, as [`Model::save`] does.
    pub fn save(&self, dtype: DType, file: &Path) -> Result<(), Error> {
        let parts = (self.encoder.clone(), self.pooler.clone(), self.head.clone());
        save_module(&parts, &self.names, dtype, &self.description.rewrites, file)
    }
}

/// Writes the parameters of a module that have a name in `names` to a safetensors file: matrices in `dtype`, all other
/// weights in f32, in the form that `rewrites` describe. Errors if the file cannot be written.
pub fn save_module<M: Module>(
    module: &M,
    names: &Names,
    dtype: DType,
    rewrites: &Rewrites,
    file: &Path,
) -> Result<(), Error> {
    let wrong = |message: String| Error::Checkpoint { file: file.display().to_string(), message };
    let mut collected = Collect { names, dtype, tensors: Vec::new() };
    module.visit(&mut collected);
    let tensors = stored(collected.tensors, rewrites).map_err(wrong)?;
    let views = tensors.iter().map(|(name, Stored { dtype, shape, data })| {
        let view = TensorView::new(*dtype, shape.clone(), data);
        (name, view.expect("the bytes match the shape"))
    });
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| wrong(e.to_string()))?;
    write_atomically(file, |out| out.write_all(&bytes))
}

/// A tensor as it is written.
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

/// Writes each tensor of the model to its part of the tensor that the model type stores. Errors if a part does not fit.
fn stored(tensors: Vec<(String, Stored)>, rewrites: &Rewrites) -> Result<Vec<(String, Stored)>, String> {
    let mut all: Vec<(String, Stored)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (name, tensor) in tensors {
        let first = rewrites.of(&name).next();
        let Some((file, part)) = first.and_then(|(files, part)| Some((<[String; 1]>::try_from(files).ok()?, part)))
        else {
            all.push((name, tensor));
            continue;
        };
        let [file] = file;
        let (size, shape) = (tensor.dtype.bitsize() / 8, part.stored_shape(&tensor.shape));
        let view = part.view(&tensor.shape).ok_or_else(|| format!("tensor `{name}` is no part of `{file}`"))?;
        let at = *places.entry(file.clone()).or_insert_with(|| {
            let data = vec![0; shape.iter().product::<usize>() * size];
            all.push((file.clone(), Stored { dtype: tensor.dtype, shape: shape.clone(), data }));
            all.len() - 1
        });
        let whole = &mut all[at].1;
        if whole.shape != shape || whole.dtype != tensor.dtype {
            return Err(format!("tensor `{name}` and others are no parts of one `{file}`"));
        }
        let data = match part.values() {
            Some(values) if tensor.dtype == Dtype::F32 => {
                let numbers = tensor.data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
                numbers.flat_map(|x| values.written(x).to_le_bytes()).collect()
            }
            _ => tensor.data,
        };
        let mut elements = data.chunks_exact(size);
        view.each(|at| {
            let to = &mut whole.data[at * size..(at + 1) * size];
            to.copy_from_slice(elements.next().expect("a view has as many elements as its tensor"));
        });
    }
    Ok(all)
}

struct Collect<'a> {
    names: &'a Names,
    dtype: DType,
    tensors: Vec<(String, Stored)>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some((name, layout)) = self.names.get(param.id) else { return };
        let value = param.val().inner();
        let matrix = D == 2 && layout == longreach_nn::Layout::Same;
        let shape = value.dims().to_vec();
        let data = value.into_data().convert_dtype(BurnDType::F32).try_into_vec().expect("converted to f32");
        let data = layout.to_disk(&shape, data);
        let shape = layout.on_disk(&shape);
        let (dtype, bytes) = match (matrix, self.dtype) {
            (true, DType::Bf16) => {
                (Dtype::BF16, data.into_iter().flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect())
            }
            _ => (Dtype::F32, data.into_iter().flat_map(f32::to_le_bytes).collect()),
        };
        self.tensors.push((name.to_owned(), Stored { dtype, shape, data: bytes }));
    }
}
