//! Laws about every bit: few tokens at once are tokens one by one, calls and company change nothing, and the arithmetic of an
//! instruction set is the one of its version.

use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use longreach_models::{DType, Location, MODELS, Model};
use longreach_nn::Cache;

mod arithmetic;
mod blocks;
mod cuts;
mod few;
mod precisions;

/// The directory of the goldens.
fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

/// The goldens of decoders, by name: directories, and GGUF files.
fn decoders() -> Vec<PathBuf> {
    let list =
        |folder: PathBuf| std::fs::read_dir(folder).expect("goldens").map(|entry| entry.expect("an entry").path());
    let of_decoder = |folder: &PathBuf| {
        let config = std::fs::read_to_string(folder.join("config.json")).unwrap_or_default();
        let known = MODELS.iter().any(|m| config.contains(&format!("\"model_type\": \"{}\"", m.model_type)));
        known && folder.join("model.safetensors").exists()
    };
    let mut found: Vec<PathBuf> = list(goldens()).filter(of_decoder).collect();
    found.sort();
    assert!(found.len() > 90, "{} decoders", found.len());
    found
}

/// Loads a golden.
fn load(directory: &Path, dtype: Option<DType>) -> Model {
    let at = Location { directory: directory.to_owned(), weights: None };
    Model::load(&at, dtype).expect("a golden checkpoint").prepared()
}

/// The bits of all numbers.
fn bits<const D: usize>(x: Tensor<D>) -> Vec<u32> {
    x.into_data().iter::<f32>().map(f32::to_bits).collect()
}

/// Bits of numbers.
type Bits = Vec<u32>;

/// All tensors of a state.
fn state(cache: &Cache) -> Vec<(String, Bits)> {
    let tensors = cache.tensors();
    tensors.iter().map(|x| (x.name.clone(), x.whole().iter::<f32>().map(f32::to_bits).collect())).collect()
}

/// A text of `n` tokens.
fn text(model: &Model, n: usize) -> Vec<u32> {
    let vocabulary = model.decoder.vocabulary().min(60);
    (0..n).map(|i| ((i * i * 7 + i * 3 + 1) % vocabulary) as u32).collect()
}
