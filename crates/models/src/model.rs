//! A model with what its files say.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use bytes::Bytes;
use longreach_nn::{Builder, Decoder, Names, Random};

use crate::{Checkpoint, DType, Description, Error, Fields, Location};

/// A model's files in memory, for one that is built into a program.
#[derive(Clone, Copy, Debug)]
pub struct Files {
    /// What errors call it.
    pub name: &'static str,
    /// `config.json`
    pub config: &'static str,
    /// `model.safetensors`
    pub weights: &'static [u8],
}

/// A model ready to run.
#[derive(Debug)]
pub struct Model {
    /// What it is.
    pub description: Description,
    /// The network.
    pub decoder: Decoder,
    /// The tensors' names, for writing them back.
    pub names: Names,
    /// The precision its matrices are kept in.
    pub dtype: DType,
    /// Its configuration, as the file has it.
    pub config: String,
    /// The checkpoint, whose mapping the weights may lie in; absent for one drawn at random.
    pub checkpoint: Option<Checkpoint>,
}

impl Model {
    /// Loads a model, keeping its matrices in `dtype`, or as they are stored.
    pub fn load(at: &Location, dtype: Option<DType>) -> Result<Self, Error> {
        let (file, config) = read_config(&at.directory)?;
        let fields = Fields::parse(file.display().to_string(), &config)?;
        let description = Description::of(&fields)?;
        let checkpoint = match &at.weights {
            Some(file) => Checkpoint::open_files(std::slice::from_ref(file))?,
            None => Checkpoint::open(&at.directory)?,
        };
        Self::from_checkpoint(description, config, checkpoint.keep_as(dtype))
    }

    /// A model from files in memory.
    pub fn embedded(files: &Files, dtype: Option<DType>) -> Result<Self, Error> {
        let description = Description::of(&Fields::parse(files.name, files.config)?)?;
        let checkpoint = Checkpoint::from_bytes(files.name, Bytes::from_static(files.weights))?;
        Self::from_checkpoint(description, files.config.to_owned(), checkpoint.keep_as(dtype))
    }

    fn from_checkpoint(description: Description, config: String, checkpoint: Checkpoint) -> Result<Self, Error> {
        let mut checkpoint = checkpoint.allow_without(description.decoder.names.body);
        let mut builder = Builder::new(&mut checkpoint, &Device::flex());
        let decoder = description.build(&mut builder)?;
        let names = builder.into_names();
        let dtype = checkpoint.dtype();
        Ok(Self { description, decoder, names, dtype, config, checkpoint: Some(checkpoint) })
    }

    /// A model of the configuration with weights drawn at random, on `device`: the start of training.
    pub fn random(file: &str, config: &str, seed: u64, device: &Device) -> Result<Self, Error> {
        let description = Description::of(&Fields::parse(file, config)?)?;
        let mut source = Random::new(seed);
        let mut builder = Builder::new(&mut source, device);
        let decoder = description.build(&mut builder)?;
        let names = builder.into_names();
        Ok(Self { description, decoder, names, dtype: DType::F32, config: config.to_owned(), checkpoint: None })
    }

    /// Hidden states and logits of every token of `batch` sequences of `length` tokens, read `piece` tokens at a time.
    ///
    /// `mask` is 0 at padding. Panics if an id is not below the vocabulary's size.
    pub fn evaluate(&self, ids: &[u32], mask: Option<&[u8]>, batch: usize, length: usize, piece: usize) -> Evaluation {
        let device = self.decoder.device();
        let mut cache = self.decoder.start(batch);
        let mask = mask.map(|mask| {
            let numbers: Vec<f32> = mask.iter().map(|m| *m as f32).collect();
            Tensor::<1>::from_data(&numbers[..], &device).reshape([batch, length, 1])
        });
        let (mut hidden, mut logits) = (Vec::new(), Vec::new());
        for from in (0..length).step_by(piece.max(1)) {
            let n = piece.min(length - from);
            let part: Vec<u32> = ids.chunks(length).flat_map(|row| &row[from..from + n]).copied().collect();
            let mask = mask.clone().map(|m| m.narrow(1, from, n));
            let h = self.decoder.forward(&part, &mut cache, mask);
            logits.push(self.decoder.logits(h.clone()));
            hidden.push(h);
        }
        let flat = |parts: Vec<Tensor<3>>| Tensor::cat(parts, 1).into_data().iter::<f32>().collect();
        Evaluation { hidden: flat(hidden), logits: flat(logits) }
    }

    /// For inference: see [`Decoder::prepared`].
    #[must_use]
    pub fn prepared(self) -> Self {
        Self { decoder: self.decoder.prepared(), ..self }
    }

    /// How many numbers the model has.
    pub fn parameters(&self) -> usize {
        self.decoder.num_params()
    }
}

/// What [`Model::evaluate`] returns, contiguous.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// `[B, T, d]`, after the last norm
    pub hidden: Vec<f32>,
    /// `[B, T, vocabulary]`
    pub logits: Vec<f32>,
}

/// `config.json` of a directory.
pub(crate) fn read_config(directory: &Path) -> Result<(PathBuf, String), Error> {
    let file = directory.join("config.json");
    let bytes = std::fs::read(&file).map_err(|e| Error::io(&file, e))?;
    let text = String::from_utf8(bytes)
        .map_err(|e| Error::Config { file: file.display().to_string(), message: format!("not UTF-8: {e}") })?;
    Ok((file, text))
}
