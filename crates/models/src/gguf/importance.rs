//! Importances: what each input channel of each matrix carries on some text, by which quantising weighs errors.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use longreach_gguf::{Gguf, Header, Tensor, TensorType};
use longreach_nn::Inputs;

use super::contents::names_in_gguf;
use super::quantise::numbers;
use super::tensors::floats;
use crate::{Error, Location, Model, Rewrites, write_atomically};

/// A model whose matrices add up the squares of what they are multiplied by, while it reads.
pub struct Observed {
    inputs: Vec<(String, Inputs)>,
    names: Rewrites,
}

impl Observed {
    /// Loads a model, in f32, to be observed. Errors as [`Model::load`] does, and if the model cannot be written as GGUF.
    pub fn load(at: &Location) -> Result<(Model, Self), Error> {
        let names = names_in_gguf(at)?;
        let model = Model::observed(at)?;
        let inputs = model.checkpoint.as_ref().map(|checkpoint| checkpoint.inputs().to_vec()).unwrap_or_default();
        Ok((model, Self { inputs, names }))
    }

    /// Writes the sums so far in llama.cpp's form: for each matrix of a GGUF file the sums of squares, and the number of
    /// rows, which for a list of experts each has its own. `dataset` names the text, which was read in `chunks` parts of
    /// `length` tokens. Returns the number of matrices. Errors if the file cannot be written.
    pub fn write(&self, to: &Path, dataset: &str, chunks: u32, length: u32) -> Result<usize, Error> {
        let all = self.sums();
        let mut header = Header::new();
        header.set("general.type", "imatrix")?;
        header.set("imatrix.datasets", [dataset])?;
        header.set("imatrix.chunk_count", chunks)?;
        header.set("imatrix.chunk_size", length)?;
        for (name, Sums { sums, rows }) in &all {
            let width = sums.len() / rows.len().max(1);
            header.declare(&format!("{name}.in_sum2"), &[rows.len(), width], TensorType::F32)?;
            header.declare(&format!("{name}.counts"), &[rows.len(), 1], TensorType::F32)?;
        }
        let bytes = |numbers: &[f32]| floats(numbers, TensorType::F32).unwrap_or_default();
        let mut writer = header.write_to(Vec::new())?;
        for (name, Sums { sums, rows }) in &all {
            writer.tensor(&format!("{name}.in_sum2"), &bytes(sums))?;
            writer.tensor(&format!("{name}.counts"), &bytes(rows))?;
        }
        let file = writer.finish()?;
        write_atomically(to, |out| out.write_all(&file))?;
        Ok(all.len())
    }

    /// The sums of each matrix of a GGUF file. Several matrices of the model may be parts of one, which have the same inputs.
    fn sums(&self) -> BTreeMap<String, Sums> {
        let mut all = BTreeMap::<String, Sums>::new();
        for (name, inputs) in &self.inputs {
            let squares = inputs.squares();
            let found = self.names.of(name).next();
            let Some((Ok([file]), part)) = found.map(|(files, part)| (<[String; 1]>::try_from(files), part)) else {
                continue;
            };
            let (nth, count) = part.nth().unwrap_or((0, 1));
            let width = squares.sums.len();
            let sums =
                all.entry(file).or_insert_with(|| Sums { sums: vec![0.0; count * width], rows: vec![0.0; count] });
            let place = sums.sums.chunks_exact_mut(width.max(1)).nth(nth);
            if let (Some(place), Some(rows)) = (place, sums.rows.get_mut(nth)) {
                place.iter_mut().zip(&squares.sums).for_each(|(sum, x)| *sum += *x as f32);
                *rows += squares.rows as f32;
            }
        }
        // Tables whose rows are looked up, and experts that no token has chosen.
        all.retain(|_, sums| sums.rows.iter().any(|rows| *rows > 0.0));
        all
    }
}

/// The sums of a matrix, or of a list of them.
struct Sums {
    sums: Vec<f32>,
    rows: Vec<f32>,
}

/// Reads a file of importances in llama.cpp's form (`general.type` `imatrix`): for each matrix the mean square of what each
/// of its input channels carried on some text; for a list of experts, one after another. An expert that was not chosen gets
/// the mean of the others. Errors if the file is another one.
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
        let of =
            |tensor: &Tensor<'_>| numbers(tensor.tensor_type(), tensor.data(), 0, 1, tensor.elements()).map_err(&wrong);
        let (sums, counts) = (of(&sums)?, of(&counts)?);
        if !sums.len().is_multiple_of(counts.len()) {
            let (sums, counts) = (sums.len(), counts.len());
            return Err(wrong(format!("tensors `{name}`: {sums} sums are not divided by {counts} counts")));
        }
        all.insert(name.to_owned(), means(&sums, &counts));
    }
    Ok(all)
}

/// The means of sums over as many rows, matrix by matrix.
fn means(sums: &[f32], counts: &[f32]) -> Vec<f32> {
    let width = sums.len() / counts.len().max(1);
    let total: f32 = counts.iter().sum();
    let mut of_all = vec![0.0; width];
    for part in sums.chunks_exact(width.max(1)) {
        of_all.iter_mut().zip(part).for_each(|(mean, sum)| *mean += sum / total.max(1.0));
    }
    let parts = sums.chunks_exact(width.max(1)).zip(counts);
    parts
        .flat_map(|(sums, count)| match *count > 0.0 {
            true => sums.iter().map(|sum| sum / count).collect::<Vec<_>>(),
            false => of_all.clone(),
        })
        .collect()
}
