//! Encoders with their task heads.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use longreach_gguf::Gguf;
use longreach_nn::{Body, Builder, Head, Names, Over, Pooler, Random, Reading, Source, gathered};
use serde_json::json;

use crate::directory::read_config;
use crate::encoder::{EncoderDescription, GlobalByDefault, ScoreScale, Task};
use crate::gguf::is_encoder;
use crate::model::unused;
use crate::model_types::encoder as architecture;
use crate::{Checkpoint, DType, ENCODERS, Error, Fields, Location, MODELS};

/// An encoder with its head, ready to run.
#[derive(Debug)]
pub struct EncoderModel {
    /// The parsed configuration.
    pub description: EncoderDescription,
    /// The network.
    pub encoder: Body,
    /// The pooler, if the checkpoint has one.
    pub pooler: Option<Pooler>,
    /// The head, if it has one.
    pub head: Option<Head>,
    /// The names of the tensors, needed to save them.
    pub names: Names,
    /// The precision of its matrices.
    pub dtype: DType,
    /// The transformation of label scores.
    pub scale: ScoreScale,
    /// The entry of `architectures`, if it is unknown.
    pub unknown: Option<String>,
    /// The text of its `config.json`.
    pub config: String,
    /// The checkpoint, whose mapping the weights may refer to; `None` for random weights.
    pub checkpoint: Option<Checkpoint>,
}

/// The outputs of an encoder for a batch.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// `[B, T, d]`, after the final norm
    pub hidden: Tensor<3>,
    /// `[texts, d]`, if the checkpoint has a pooler
    pub pooled: Option<Tensor<2>>,
    /// `[texts or tokens, scores]`, if the checkpoint has a head
    pub scores: Option<Tensor<2>>,
}

impl EncoderModel {
    /// Whether the `config.json` of a directory or the metadata of a GGUF file describe an encoder. Errors if the file
    /// cannot be read or parsed.
    pub fn is_at(at: &Location) -> Result<bool, Error> {
        if let Some(file) = at.gguf() {
            return is_encoder(&Gguf::open(&file)?);
        }
        let (fields, _) = read_config(&at.directory)?;
        Ok(architecture(&fields)?.is_some())
    }

    /// Loads a model on the CPU; matrices are kept in `dtype`, or as stored if `None`. Errors if a file is missing or
    /// invalid, or a tensor does not fit.
    pub fn load(at: &Location, dtype: Option<DType>) -> Result<Self, Error> {
        Self::load_on(at, dtype, &longreach_burn::cpu())
    }

    /// As [`EncoderModel::load`], on `device`; matrices are in f32 if it is not the host.
    pub fn load_on(at: &Location, dtype: Option<DType>, device: &Device) -> Result<Self, Error> {
        if let Some(file) = at.gguf() {
            return Self::of_gguf(&Gguf::open(&file)?, dtype, device);
        }
        let (mut fields, config) = read_config(&at.directory)?;
        if architecture(&fields)?.is_none() {
            return Err(no_encoder(&fields)?);
        }
        let checkpoint = Checkpoint::at(at)?;
        if fields.get("architectures").is_none() {
            let (head, labels) = head_of(&checkpoint);
            fields.set_default("architectures", json!([head]));
            if let (Some(n), None) = (labels, fields.get("id2label")) {
                fields.set_default("num_labels", json!(n));
            }
        }
        let Some(description) = EncoderDescription::of(&fields)? else { return Err(no_encoder(&fields)?) };
        Self::from_checkpoint(description, &fields, (config, checkpoint.keep_on(device, dtype)), device)
    }

    /// Loads an encoder from a GGUF file on `device`. Errors as [`EncoderModel::load`] does.
    pub fn of_gguf(gguf: &Gguf, dtype: Option<DType>, device: &Device) -> Result<Self, Error> {
        let (description, fields, config, checkpoint) = crate::gguf::encoder(gguf)?;
        let model = Self::from_checkpoint(description, &fields, (config, checkpoint.keep_on(device, dtype)), device);
        model.map_err(|e| crate::gguf::named(gguf, e))
    }

    fn from_checkpoint(
        description: EncoderDescription,
        fields: &Fields,
        (config, checkpoint): (String, Checkpoint),
        device: &Device,
    ) -> Result<Self, Error> {
        let of = &description.body;
        let rewrites = description.rewrites.clone();
        let mut checkpoint = checkpoint.named_as(of.name(), &of.embedding()).rewritten(rewrites);
        let mut builder = Builder::new(&mut checkpoint, device);
        let (encoder, pooler, head) = build(&mut builder, &description)?;
        let names = builder.into_names();
        let (dtype, scale) = (checkpoint.dtype(), ScoreScale::of(fields, description.labels.len())?);
        let unknown = unknown_architecture(fields);
        let checkpoint = Some(checkpoint);
        Ok(Self { description, encoder, pooler, head, names, dtype, scale, unknown, config, checkpoint })
    }

    /// A model with random weights on `device`, which is the start of training. Errors if `config`, which errors call
    /// `file`, is invalid or not an encoder's.
    pub fn random(file: &str, config: &str, seed: u64, device: &Device) -> Result<Self, Error> {
        Self::from_source(file, config, &mut Random::new(seed), device)
    }

    /// The model that `config`, which errors call `file`, describes, with weights of `source` on `device`. Errors if
    /// `config` is invalid or not an encoder's, or a weight is missing or has another shape.
    pub fn from_source(file: &str, config: &str, source: &mut dyn Source, device: &Device) -> Result<Self, Error> {
        let fields = Fields::parse(file, config)?;
        let Some(description) = EncoderDescription::of(&fields)? else {
            return Err(fields.error("field `model_type`: not an encoder"));
        };
        let mut builder = Builder::new(source, device);
        let (encoder, pooler, head) = build(&mut builder, &description)?;
        let names = builder.into_names();
        let (config, scale) = (config.to_owned(), ScoreScale::of(&fields, description.labels.len())?);
        let (dtype, unknown) = (DType::F32, unknown_architecture(&fields));
        Ok(Self { description, encoder, pooler, head, names, dtype, scale, unknown, config, checkpoint: None })
    }

    /// The hidden states and the outputs of pooler and head. Panics if an id, a type or a position exceeds its table.
    pub fn forward(&self, of: &Reading<'_>) -> Encoded {
        let bounds = of.bounds();
        let asked = self.description.questions.then(|| self.questions(of.ids, &bounds));
        let types: Option<Vec<u32>> = asked.as_ref().map(|asked| asked.iter().map(|asked| u32::from(!asked)).collect());
        let hidden = self.encoder.forward(&Reading { types: of.types.or(types.as_deref()), ..*of });
        let first = |pooler: &Pooler| pooler.forward(gathered(Over::First, hidden.clone(), &bounds, of.keep));
        let pooled = self.pooler.as_ref().map(first);
        let scores = self.head.as_ref().map(|head| {
            let seen = match (head.over(), &pooled) {
                (Over::Pooled, Some(pooled)) => pooled.clone(),
                (over, _) => gathered(over, hidden.clone(), &bounds, of.keep),
            };
            let scores = head.forward(seen, self.encoder.embeddings());
            match &asked {
                // The first token stays a candidate: it means that there is no answer.
                Some(asked) => {
                    let first = |i: &usize| bounds.contains(i);
                    let out: Vec<f32> =
                        (0..asked.len()).map(|i| if asked[i] && !first(&i) { -1e6 } else { 0.0 }).collect();
                    scores + Tensor::<1>::from_data(&out[..], &self.encoder.device()).unsqueeze_dim(1)
                }
                None => scores,
            }
        });
        Encoded { hidden, pooled, scores }
    }

    /// Which tokens belong to a question: those up to the first separator of a text, or only its first token if there
    /// is none.
    fn questions(&self, ids: &[u32], bounds: &[usize]) -> Vec<bool> {
        let text = |w: &[usize]| {
            let ids = &ids[w[0]..w[1]];
            let end = ids.iter().position(|id| Some(*id) == self.description.separator).unwrap_or(0);
            (0..ids.len()).map(|i| i <= end).collect::<Vec<_>>()
        };
        bounds.windows(2).flat_map(text).collect()
    }

    /// The number of parameters.
    pub fn parameters(&self) -> usize {
        let pooler = self.pooler.as_ref().map_or(0, Module::num_params);
        self.encoder.num_params() + pooler + self.head.as_ref().map_or(0, Module::num_params)
    }

    /// Notes for the user about how the model was loaded, one sentence each: an unknown architecture, and unused
    /// weights in the files, except those that `elsewhere` reports as used by other parts.
    pub fn notes(&self, elsewhere: impl Fn(&str) -> bool) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(name) = &self.unknown {
            notes.push(format!(
                "architecture `{name}` is not supported: only the encoder of model_type `{}` was loaded from it, without a head",
                self.description.model_type
            ));
        }
        let mut names = self.checkpoint.as_ref().map(Checkpoint::unused).unwrap_or_default();
        names.retain(|name| !elsewhere(name));
        notes.extend(unused(&names));
        notes
    }

    /// The tokens of a text that are global by default.
    pub fn globals(&self, ids: &[u32]) -> Vec<bool> {
        match self.description.global {
            GlobalByDefault::None => vec![false; ids.len()],
            GlobalByDefault::First => (0..ids.len()).map(|i| i == 0).collect(),
            GlobalByDefault::Question => {
                let end = ids.iter().position(|id| Some(*id) == self.description.separator).unwrap_or(0);
                (0..ids.len()).map(|i| i < end).collect()
            }
        }
    }
}

/// The error for a `config.json` that is not an encoder's; it lists the supported types.
fn no_encoder(fields: &Fields) -> Result<Error, Error> {
    let known = ENCODERS.iter().map(|m| m.model_type).collect::<Vec<_>>().join(", ");
    Ok(fields.error(match fields.text("model_type")? {
        None => format!("field `model_type` is missing; encoders are {known}"),
        Some(found) if MODELS.iter().any(|model| model.model_type == found) => {
            format!("model_type `{found}` is no encoder but a language model; encoders are {known}")
        }
        Some(found) => format!("model_type `{found}` is not supported; encoders are {known}"),
    }))
}

/// The first of `architectures` that is neither a bare body nor has a known head.
fn unknown_architecture(fields: &Fields) -> Option<String> {
    let named = fields.get("architectures")?.as_array()?.first()?.as_str()?;
    (Task::of(fields).is_none() && !named.ends_with("Model")).then(|| named.to_owned())
}

/// The head of a checkpoint whose configuration has no `architectures`, as the suffix of such a name, and the number
/// of its labels.
fn head_of(checkpoint: &Checkpoint) -> (&'static str, Option<usize>) {
    let names = checkpoint.names();
    let ends = |end: &str| names.iter().find(|name| *name == end || name.ends_with(&format!(".{end}")));
    let rows = |name: &String| checkpoint.shape(name).and_then(|shape| shape.first().copied());
    if ends("qa_outputs.weight").is_some() {
        return ("ForQuestionAnswering", None);
    }
    let whole = ends("classifier.out_proj.weight").or_else(|| ends("score.weight"));
    if let Some(name) = whole {
        return ("ForSequenceClassification", rows(name));
    }
    if let Some(name) = ends("classifier.weight") {
        // A token classification head follows the body directly; a sequence classification head follows a pooler or a
        // layer of its own.
        let of_text = ["pooler.dense.weight", "pre_classifier.weight", "head.dense.weight"]
            .iter()
            .any(|name| ends(name).is_some());
        return (if of_text { "ForSequenceClassification" } else { "ForTokenClassification" }, rows(name));
    }
    if ["cls.predictions.bias", "lm_head.bias", "lm_head.decoder.bias", "vocab_projector.bias", "decoder.bias"]
        .iter()
        .any(|name| ends(name).is_some())
    {
        return ("ForMaskedLM", None);
    }
    ("Model", None)
}

fn build(b: &mut Builder, d: &EncoderDescription) -> Result<(Body, Option<Pooler>, Option<Head>), longreach_nn::Error> {
    let encoder = Body::new(b, &d.body)?;
    let needed = d.head.as_ref().is_some_and(|(_, head)| head.over == Over::Pooled);
    let pooler = b.scope(d.body.name(), |b| {
        let there = |b: &Builder, name: &str| needed || b.has(&format!("{name}.weight"));
        match d.pooler {
            Some((name, f)) if there(b, name) => Pooler::new(b, name, d.body.width(), f).map(Some),
            _ => Ok(None),
        }
    })?;
    let head = d.head.as_ref().map(|(_, head)| Head::new(b, head)).transpose()?;
    Ok((encoder, pooler, head))
}
