//! Importances: what each input channel of each matrix carries on some text, by which quantising weighs errors.

use std::collections::HashMap;
use std::path::PathBuf;

use longreach_gguf::{Gguf, Tensor};

use super::quantise::numbers;
use crate::Error;

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
        let of =
            |tensor: &Tensor<'_>| numbers(tensor.tensor_type(), tensor.data(), 0, 1, tensor.elements()).map_err(&wrong);
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
