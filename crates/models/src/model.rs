//! A decoder with the contents of its files.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use bytes::Bytes;
use longreach_attention::softmax::streaming::Streaming;
use longreach_gguf::Gguf;
use longreach_nn::{Builder, Decoder, Names, Random};

use crate::directory::read_config;
use crate::gguf::{Described, describe, named};
use crate::model_types::mamba_ssm;
use crate::{Checkpoint, DType, Description, Error, Fields, GenerationConfig, Location};

/// The files of a model in memory, for models that are compiled into a program.
#[derive(Clone, Copy, Debug)]
pub struct Files {
    /// The name in errors.
    pub name: &'static str,
    /// `config.json`
    pub config: &'static str,
    /// `model.safetensors`
    pub weights: &'static [u8],
}

/// How a model is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The precision of its matrices; that of the checkpoint if `None`.
    pub dtype: Option<DType>,
    /// A bound of the KV cache of layers with full attention: see [`Description::stream`].
    pub streaming: Option<Streaming>,
    /// The device that computes.
    pub device: Device,
}

impl Default for LoadOptions {
    /// The precision of the checkpoint and its own KV cache, on the CPU.
    fn default() -> Self {
        Self { dtype: None, streaming: None, device: longreach_burn::cpu() }
    }
}

impl LoadOptions {
    fn change(&self, description: &mut Description, file: &str) -> Result<(), Error> {
        self.streaming.map_or(Ok(()), |streaming| description.stream(file, streaming))
    }
}

/// A model ready to run.
#[derive(Debug)]
pub struct Model {
    /// The parsed configuration.
    pub description: Description,
    /// The network.
    pub decoder: Decoder,
    /// The names of the tensors, needed to save them.
    pub names: Names,
    /// The precision of its matrices.
    pub dtype: DType,
    /// The publisher's settings for text generation.
    pub generation: GenerationConfig,
    /// The token that starts a text without a prompt, if the model has one.
    pub start: Option<u32>,
    /// The bound of the KV cache that it was loaded with.
    pub streaming: Option<Streaming>,
    /// The text of its `config.json`.
    pub config: String,
    /// The checkpoint, whose mapping the weights may refer to; `None` for random weights.
    pub checkpoint: Option<Checkpoint>,
}

impl Model {
    /// Loads a model on the CPU; matrices are kept in `dtype`, or as stored if `None`. Errors if a file is missing or
    /// invalid, or a tensor does not fit.
    pub fn load(at: &Location, dtype: Option<DType>) -> Result<Self, Error> {
        Self::load_with(at, &LoadOptions { dtype, ..LoadOptions::default() })
    }

    /// As [`Model::load`], with options. Also errors if the model does not allow them.
    pub fn load_with(at: &Location, options: &LoadOptions) -> Result<Self, Error> {
        if let Some(file) = at.gguf() {
            return Self::of_gguf_with(&Gguf::open(&file)?, options);
        }
        Self::of_directory(at, Checkpoint::at(at)?.keep_as(options.dtype), options)
    }

    /// Loads a model in f32 of which the inputs of matrices are added up. Errors as [`Model::load`] does.
    pub(crate) fn observed(at: &Location) -> Result<Self, Error> {
        match at.gguf() {
            Some(file) => {
                let gguf = Gguf::open(&file)?;
                let Described { description, config, joined, .. } = describe(&gguf)?;
                let checkpoint = Checkpoint::of_gguf(&gguf, description.decoder.blocks.len(), &joined)?;
                let checkpoint = checkpoint.keep_as(Some(DType::F32)).observing();
                Self::from_checkpoint(description, config, checkpoint, &longreach_burn::cpu())
                    .map_err(|e| named(&gguf, e))
            }
            None => {
                let checkpoint = Checkpoint::at(at)?.keep_as(Some(DType::F32)).observing();
                Self::of_directory(at, checkpoint, &LoadOptions::default())
            }
        }
    }

    fn of_directory(at: &Location, checkpoint: Checkpoint, options: &LoadOptions) -> Result<Self, Error> {
        let (mut fields, config) = read_config(&at.directory)?;
        mamba_ssm::sizes_of(&mut fields, &checkpoint);
        let mut description = Description::of(&fields)?;
        options.change(&mut description, fields.file())?;
        let generation = GenerationConfig::read(&at.directory)?;
        if let Some(eos) = &generation.eos {
            description.eos.clone_from(eos);
        }
        let start = fields.ids("bos_token_id")?.first().copied();
        let model = Self::from_checkpoint(description, config, checkpoint, &options.device)?;
        let start = model.description.eos.first().copied().or(start);
        Ok(Self { generation, start, streaming: options.streaming, ..model })
    }

    /// Loads a model from a GGUF file. Errors as [`Model::load`] does.
    pub fn of_gguf(gguf: &Gguf, dtype: Option<DType>) -> Result<Self, Error> {
        Self::of_gguf_with(gguf, &LoadOptions { dtype, ..LoadOptions::default() })
    }

    /// As [`Model::load_with`], from a GGUF file.
    pub fn of_gguf_with(gguf: &Gguf, options: &LoadOptions) -> Result<Self, Error> {
        let Described { mut description, fields, config, joined, .. } = describe(gguf)?;
        options.change(&mut description, fields.file())?;
        let layers = description.decoder.blocks.len();
        let checkpoint = Checkpoint::of_gguf(gguf, layers, &joined)?.keep_as(options.dtype);
        let bos = fields.ids("bos_token_id")?.first().copied();
        let model = Self::from_checkpoint(description, config, checkpoint, &options.device);
        let model = model.map_err(|e| named(gguf, e))?;
        let start = model.description.eos.first().copied().or(bos);
        Ok(Self { start, streaming: options.streaming, ..model })
    }

    /// Loads a model from files in memory. Errors as [`Model::load_with`] does.
    pub fn embedded(files: &Files, options: &LoadOptions) -> Result<Self, Error> {
        let mut description = Description::of(&Fields::parse(files.name, files.config)?)?;
        options.change(&mut description, files.name)?;
        let checkpoint = Checkpoint::from_bytes(files.name, Bytes::from_static(files.weights))?;
        let checkpoint = checkpoint.keep_as(options.dtype);
        let model = Self::from_checkpoint(description, files.config.to_owned(), checkpoint, &options.device)?;
        Ok(Self { streaming: options.streaming, ..model })
    }

    fn from_checkpoint(
        description: Description,
        config: String,
        checkpoint: Checkpoint,
        device: &Device,
    ) -> Result<Self, Error> {
        let of = &description.decoder;
        let mut checkpoint =
            checkpoint.named_as(&of.names.body, &of.embedding()).rewritten(description.rewrites.clone());
        let mut builder = Builder::new(&mut checkpoint, device);
        let decoder = description.build(&mut builder)?;
        let names = builder.into_names();
        let dtype = checkpoint.dtype();
        let start = description.eos.first().copied();
        let generation = GenerationConfig::default();
        let checkpoint = Some(checkpoint);
        Ok(Self { description, decoder, names, dtype, generation, start, streaming: None, config, checkpoint })
    }

    /// A model with random weights on `device`, which is the start of training. Errors if `config`, which errors call
    /// `file`, is invalid.
    ///
    /// A step of training:
    ///
    /// ```
    /// use burn::optim::{AdamWConfig, GradientsParams};
    /// use longreach_models::Model;
    ///
    /// let config = r#"{"model_type": "mamba2", "vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "expand": 2,
    ///     "num_heads": 2, "head_dim": 16, "state_size": 8, "n_groups": 1, "tie_word_embeddings": true}"#;
    /// let mut decoder = Model::random("config", config, 1, &longreach_burn::cpu().autodiff())?.decoder;
    /// let (text, targets) = ([3, 1, 4, 1], [1, 4, 1, 5]);
    ///
    /// let hidden = decoder.forward(&text, &mut decoder.start(1), None);
    /// let loss = decoder.loss(hidden, &targets);
    /// let gradients = GradientsParams::from_grads(loss.backward(), &decoder);
    /// decoder = AdamWConfig::new().init().step(1e-3, decoder, gradients);
    /// # Ok::<(), longreach_models::Error>(())
    /// ```
    pub fn random(file: &str, config: &str, seed: u64, device: &Device) -> Result<Self, Error> {
        let description = Description::of(&Fields::parse(file, config)?)?;
        let mut source = Random::new(seed);
        let mut builder = Builder::new(&mut source, device);
        let decoder = description.build(&mut builder)?;
        let names = builder.into_names();
        let (start, config) = (description.eos.first().copied(), config.to_owned());
        let generation = GenerationConfig::default();
        let (dtype, streaming) = (DType::F32, None);
        Ok(Self { description, decoder, names, dtype, generation, start, streaming, config, checkpoint: None })
    }

    /// Hidden states and logits of every token of `batch` sequences of `length` tokens, read in chunks of `piece`
    /// tokens.
    ///
    /// `mask` is 0 at padding. Panics if a token id exceeds the vocabulary.
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

    /// Precomputes values for inference: see [`Decoder::prepared`].
    #[must_use]
    pub fn prepared(self) -> Self {
        Self { decoder: self.decoder.prepared(), ..self }
    }

    /// Notes for the user about how the model was loaded, one sentence each: unused weights in the files, and
    /// unsupported settings.
    pub fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.checkpoint.iter().filter_map(|c| unused(&c.unused())).collect();
        if !self.generation.unsupported.is_empty() {
            let fields = self.generation.unsupported.join(", ");
            notes.push(format!("generation_config.json: unsupported fields are ignored: {fields}"));
        }
        notes
    }

    /// The number of parameters.
    pub fn parameters(&self) -> usize {
        self.decoder.num_params() + self.names.quantised()
    }
}

/// The result of [`Model::evaluate`], contiguous.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// `[B, T, d]`, after the final norm
    pub hidden: Vec<f32>,
    /// `[B, T, vocabulary]`
    pub logits: Vec<f32>,
}

/// The note about unused weights.
pub(crate) fn unused(names: &[String]) -> Option<String> {
    const SHOWN: usize = 6;
    let shown = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => None,
        n if n <= SHOWN => Some(format!("weights in the checkpoint that the model does not use: {shown}")),
        n => Some(format!("{n} weights in the checkpoint that the model does not use: {shown} and {} more", n - SHOWN)),
    }
}
