//! Merging an adapter into the weights of its model: `W + s B A`.

use std::path::Path;

use burn::tensor::{DType as BurnDType, TensorData};
use longreach_engine::{TextEncoder, Tokenizer};
use longreach_models::{Checkpoint, DType, EncoderModel, Location, Progress, write_atomically};
use longreach_nn::{Builder, Error as NnError, Source, Spec};

use super::adapter::{AdapterWeights, key};
use super::copy_files;
use super::start::load;
use crate::Error;

/// The weights of a model with the updates of an adapter.
struct Merged {
    base: Checkpoint,
    adapter: AdapterWeights,
    /// The prefix of the body, which the names of an adapter of a bare body lack.
    body: String,
    count: usize,
}

impl Source for Merged {
    fn get(&mut self, spec: &Spec) -> Result<TensorData, NnError> {
        let short = spec.name.strip_prefix(&self.body).unwrap_or(&spec.name).to_owned();
        for name in [spec.name.clone(), short.clone()] {
            if let Some(whole) = self.adapter.saved(spec, &name)? {
                self.count += 1;
                return Ok(whole);
            }
        }
        let data = self.base.get(spec)?;
        let [out, inputs] = spec.shape[..] else { return Ok(data) };
        for name in [&spec.name, &short] {
            let Some(layer) = name.strip_suffix(".weight") else { continue };
            let Some(update) = self.adapter.update(["A", "B"].map(|part| key(layer, part)), [out, inputs])? else {
                continue;
            };
            self.count += 1;
            let mut numbers: Vec<f32> = data.iter::<f32>().collect();
            for (o, row) in numbers.chunks_mut(inputs.max(1)).enumerate() {
                let factors = &update.b[o * update.rank..(o + 1) * update.rank];
                for (factor, a) in factors.iter().zip(update.a.chunks(inputs.max(1))) {
                    let factor = factor * update.scale;
                    row.iter_mut().zip(a).for_each(|(w, a)| *w += factor * a);
                }
            }
            let merged = TensorData::new(numbers, spec.shape.clone());
            return Ok(if data.dtype() == BurnDType::BF16 { merged.convert_dtype(BurnDType::BF16) } else { merged });
        }
        Ok(data)
    }

    fn has(&self, name: &str) -> bool {
        self.base.has(name)
    }
}

impl Merged {
    /// An error if the adapter has tensors that the model lacks.
    fn finish(&self, adapter: &Path) -> Result<(), Error> {
        let wrong = |message: String| Error::Config { file: adapter.display().to_string(), message };
        let left = self.adapter.unused();
        if let Some(name) = left.first() {
            return Err(wrong(format!(
                "{} tensors of the adapter, such as `{name}`, belong to no matrix of the model: is it an adapter of another model?",
                left.len()
            )));
        }
        match self.count {
            0 => Err(wrong("the adapter has no tensors".into())),
            _ => Ok(()),
        }
    }
}

/// Writes the model `base`, a directory, a GGUF file or a Hub id, with the adapter of the directory `adapter` merged into its weights, to the directory `out`.
/// `config` is the text of another `config.json`, for an encoder whose adapter brings a head. Matrices are written in the precision of the model. Errors if a
/// file cannot be read or written, or the adapter does not belong to the model.
pub fn merge(base: &str, adapter: &Path, out: &Path, config: Option<&str>) -> Result<(), Error> {
    let at = Location::find(base, Progress::Shown)?;
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, e))?;
    let opened = AdapterWeights::open(adapter)?;
    let file = out.join("model.safetensors");
    let text = if config.is_some() || TextEncoder::is_at(&at)? {
        let encoder = TextEncoder::load(base, None, Progress::Shown)?;
        let mut model = encoder.model;
        let body = format!("{}.", model.description.body.name());
        let base = model.checkpoint.take().ok_or_else(|| no_checkpoint(base))?;
        let dtype = base.dtype();
        let mut merged = Merged { base, adapter: opened, body, count: 0 };
        let config = config.unwrap_or(&model.config).to_owned();
        EncoderModel::from_source("config.json", &config, &mut merged, &longreach_burn::cpu())?.save(dtype, &file)?;
        merged.finish(adapter)?;
        config
    } else {
        let mut model = load(&at, at.gguf().map(|_| DType::F32))?;
        let base = model.checkpoint.take().ok_or_else(|| no_checkpoint(base))?;
        let (dtype, body) = (base.dtype(), format!("{}.", model.description.decoder.names.body));
        let mut merged = Merged { base, adapter: opened, body, count: 0 };
        let mut builder = Builder::new(&mut merged, &longreach_burn::cpu());
        model.decoder = model.description.build(&mut builder).map_err(longreach_models::Error::from)?;
        model.names = builder.into_names();
        model.save(dtype, &file)?;
        merged.finish(adapter)?;
        model.config
    };
    write_atomically(&out.join("config.json"), |file| file.write_all(text.as_bytes()))?;
    if at.gguf().is_none() {
        return copy_files(&at.directory, out);
    }
    write_tokenizer(&at, out)
}

/// Writes the tokenizer of a GGUF file as a `tokenizer.json`.
pub(crate) fn write_tokenizer(at: &Location, out: &Path) -> Result<(), Error> {
    let Some(tokenizer) = Tokenizer::of(at)? else { return Ok(()) };
    let Some(tokenizer) = tokenizer.hugging_face() else { return Ok(()) };
    let text = tokenizer.to_string(false).map_err(|e| Error::Tokenizer(e.to_string()))?;
    Ok(write_atomically(&out.join("tokenizer.json"), |file| file.write_all(text.as_bytes()))?)
}

fn no_checkpoint(base: &str) -> Error {
    Error::Config { file: base.to_owned(), message: "the model has no checkpoint".into() }
}
