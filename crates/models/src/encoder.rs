//! Encoder model types: their configurations, and models with task heads.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use longreach_nn::{
    Activation, Bias, Body, BodyConfig, Builder, FeedForwardConfig, Head, HeadConfig, Layout, Names, NormConfig, Over,
    Pooler, Random, Reading, gathered,
};
use serde_json::{Value, json};

use crate::directory::read_config;
use crate::model::unused;
use crate::{
    Checkpoint, DType, Error, Fields, Location, MODELS, bert, big_bird, distilbert, gpt2, longformer, modernbert,
    nystromformer, reformer, roberta,
};

/// A supported encoder model type.
#[derive(Clone, Copy, Debug)]
pub struct EncoderArchitecture {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// The mechanism of its attention.
    pub mechanism: &'static str,
    /// The paper.
    pub paper: &'static str,
    /// Parses its configuration.
    pub describe: fn(&Fields) -> Result<EncoderDescription, Error>,
}

/// All supported encoder model types.
pub const ENCODERS: &[EncoderArchitecture] = &[
    bert::ARCHITECTURE,
    roberta::ARCHITECTURE,
    roberta::XLM,
    distilbert::ARCHITECTURE,
    modernbert::ARCHITECTURE,
    longformer::ARCHITECTURE,
    big_bird::ARCHITECTURE,
    nystromformer::ARCHITECTURE,
    reformer::ARCHITECTURE,
    gpt2::SCORING,
];

/// The encoder type of a configuration; `None` if it is not an encoder. A type that is also a decoder counts as an
/// encoder if its head is not a language-model head.
pub(crate) fn architecture(fields: &Fields) -> Result<Option<&'static EncoderArchitecture>, Error> {
    let found = fields.text("model_type")?;
    let known = ENCODERS.iter().find(|known| Some(known.model_type) == found);
    let writes = MODELS.iter().any(|model| Some(model.model_type) == found);
    let scores = matches!(Task::of(fields), Some(Task::Sequence | Task::Token | Task::Question));
    Ok(known.filter(|_| scores || !writes))
}

/// The task of a checkpoint's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Masked language modelling: scores of the vocabulary for every token.
    MaskedLm,
    /// Sequence classification: scores of labels for a text.
    Sequence,
    /// Token classification: scores of labels for every token.
    Token,
    /// Extractive question answering: for every token, the scores of being the first and the last token of the
    /// answer.
    Question,
}

impl Task {
    /// The task of the head named in `architectures`, if there is one.
    fn of(fields: &Fields) -> Option<Task> {
        let named = fields.get("architectures")?.as_array()?.first()?.as_str()?;
        let ends = |end: &str| named.ends_with(end);
        [
            ("ForMaskedLM", Task::MaskedLm),
            ("ForPreTraining", Task::MaskedLm),
            ("ModelWithLMHead", Task::MaskedLm),
            ("LMHeadModel", Task::MaskedLm),
            ("ForCausalLM", Task::MaskedLm),
            ("ForSequenceClassification", Task::Sequence),
            ("ForTokenClassification", Task::Token),
            ("ForQuestionAnswering", Task::Question),
        ]
        .into_iter()
        .find(|(end, _)| ends(end))
        .map(|(_, task)| task)
    }

    /// A description of the head.
    pub fn about(self) -> &'static str {
        match self {
            Task::MaskedLm => "a language model's head",
            Task::Sequence => "a head that classifies texts",
            Task::Token => "a head that classifies tokens",
            Task::Question => "a head that answers questions",
        }
    }
}

/// The transformation of label scores, as in the classification pipeline of transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreScale {
    /// Softmax: probabilities of mutually exclusive labels.
    Softmax,
    /// The logistic function of each score: labels are independent.
    Sigmoid,
    /// The raw scores: regression, and rerankers that ask for them.
    Identity,
}

impl ScoreScale {
    /// Determined by the configuration of a sentence-transformers cross-encoder, else by `problem_type`, else by the
    /// number of labels.
    fn of(fields: &Fields, labels: usize) -> Result<Self, Error> {
        let of_cross_encoder = fields.objects("sentence_transformers")?;
        let own = match of_cross_encoder.first() {
            Some(own) => own.text("activation_fn")?,
            None => None,
        };
        let own = match own {
            Some(own) => Some(own),
            None => fields.text("sbert_ce_default_activation_function")?,
        };
        if let Some(function) = own.filter(|_| labels == 1) {
            return match function.rsplit('.').next().unwrap_or_default() {
                "Sigmoid" => Ok(ScoreScale::Sigmoid),
                "Identity" => Ok(ScoreScale::Identity),
                _ => Err(fields.error(format!(
                    "activation `{function}` of a cross-encoder is not supported: want Sigmoid or Identity"
                ))),
            };
        }
        match fields.text("problem_type")? {
            Some("regression") => Ok(ScoreScale::Identity),
            Some("multi_label_classification") => Ok(ScoreScale::Sigmoid),
            None | Some("single_label_classification") if labels == 1 => Ok(ScoreScale::Sigmoid),
            None | Some("single_label_classification") => Ok(ScoreScale::Softmax),
            Some(other) => {
                let want = "want regression, single_label_classification or multi_label_classification";
                Err(fields.error(format!("field `problem_type`: {want}, found \"{other}\"")))
            }
        }
    }
}

/// An encoder as described by its configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderDescription {
    /// `model_type`.
    pub model_type: &'static str,
    /// The body: everything except the task heads.
    pub body: BodyConfig,
    /// The name of the pooler within the body and its activation, for types that may have one.
    pub pooler: Option<(&'static str, Activation)>,
    /// The task head, if there is one.
    pub head: Option<(Task, HeadConfig)>,
    /// The names of the labels, for heads that score labels.
    pub labels: Vec<String>,
    /// The maximum number of tokens of a text, if there is one.
    pub longest: Option<usize>,
    /// The padding token.
    pub pad: u32,
    /// The token that separates two texts.
    pub separator: Option<u32>,
    /// The default global tokens, which depend on the head.
    pub global: GlobalByDefault,
    /// Whether token types mark the question: as in BigBird, the question's tokens have type 0 by default and all
    /// others type 1, and no answer starts or ends in the question.
    pub questions: bool,
}

/// The tokens that are global by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GlobalByDefault {
    /// No token.
    None,
    /// The first token.
    First,
    /// All tokens before the first separator: the question.
    Question,
}

impl EncoderDescription {
    /// Parses `fields` according to their `model_type`; `None` if it is not an encoder. Errors if a field is invalid.
    pub fn of(fields: &Fields) -> Result<Option<Self>, Error> {
        match architecture(fields)? {
            Some(known) => (known.describe)(fields).map(Some),
            None => Ok(None),
        }
    }
}

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
    /// Whether the `config.json` of a directory describes an encoder. Errors if the file cannot be read or parsed.
    pub fn is_at(at: &Location) -> Result<bool, Error> {
        let (fields, _) = read_config(&at.directory)?;
        Ok(architecture(&fields)?.is_some())
    }

    /// Loads a model; matrices are kept in `dtype`, or as stored if `None`. Errors if a file is missing or invalid,
    /// or a tensor does not fit.
    pub fn load(at: &Location, dtype: Option<DType>) -> Result<Self, Error> {
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
        let of = &description.body;
        let mut checkpoint = checkpoint.keep_as(dtype).named_as(of.name(), &of.embedding());
        let mut builder = Builder::new(&mut checkpoint, &Device::flex());
        let (encoder, pooler, head) = build(&mut builder, &description)?;
        let names = builder.into_names();
        let (dtype, scale) = (checkpoint.dtype(), ScoreScale::of(&fields, description.labels.len())?);
        let unknown = unknown_architecture(&fields);
        let checkpoint = Some(checkpoint);
        Ok(Self { description, encoder, pooler, head, names, dtype, scale, unknown, config, checkpoint })
    }

    /// A model with random weights on `device`, which is the start of training. Errors if `config`, which errors call
    /// `file`, is invalid or not an encoder's.
    pub fn random(file: &str, config: &str, seed: u64, device: &Device) -> Result<Self, Error> {
        let fields = Fields::parse(file, config)?;
        let Some(description) = EncoderDescription::of(&fields)? else {
            return Err(fields.error("field `model_type`: not an encoder"));
        };
        let mut source = Random::new(seed);
        let mut builder = Builder::new(&mut source, device);
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

/// The activation named by `hidden_act` or a similar field.
pub(crate) fn activation(fields: &Fields, name: &str, default: Activation) -> Result<Activation, Error> {
    Ok(match fields.text(name)? {
        None => default,
        Some("gelu" | "gelu_python") => Activation::Gelu,
        Some("gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_accurate") => Activation::GeluTanh,
        Some("relu") => Activation::Relu,
        Some("silu" | "swish") => Activation::Silu,
        Some("tanh") => Activation::Tanh,
        Some(other) => {
            let want = "want gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu, silu, swish or tanh";
            return Err(fields.error(format!("field `{name}`: {want}, found \"{other}\"")));
        }
    })
}

/// The head of a checkpoint, and the names of its labels.
pub(crate) struct Heads {
    task: Option<Task>,
    hidden: usize,
    vocabulary: usize,
    labels: Vec<String>,
}

/// The hidden layer of a head: its name, bias and activation.
pub(crate) type Dense = (&'static str, Bias, Activation);

impl Heads {
    pub(crate) fn of(fields: &Fields, hidden: usize, vocabulary: usize) -> Result<Self, Error> {
        let task = Task::of(fields);
        let labels = match task {
            Some(Task::Sequence | Task::Token) => labels(fields)?,
            _ => Vec::new(),
        };
        Ok(Self { task, hidden, vocabulary, labels })
    }

    pub(crate) fn task(&self) -> Option<Task> {
        self.task
    }

    fn plain(&self, over: Over, out: &'static str, outputs: usize, bias: &'static [&'static str]) -> HeadConfig {
        HeadConfig { over, width: self.hidden, dense: None, around: None, norm: None, out, outputs, bias, tied: false }
    }

    fn dense(&self, dense: Option<Dense>) -> Option<(&'static str, usize, Bias, Activation)> {
        dense.map(|(name, bias, f)| (name, self.hidden, bias, f))
    }

    /// A masked language-model head: `decoder` is the output layer, whose bias has one of the given names.
    pub(crate) fn words(
        &self,
        dense: Option<Dense>,
        norm: Option<(&'static str, NormConfig)>,
        decoder: &'static str,
        bias: &'static [&'static str],
    ) -> HeadConfig {
        let plain = self.plain(Over::Tokens, decoder, self.vocabulary, bias);
        HeadConfig { dense: self.dense(dense), norm, tied: true, ..plain }
    }

    /// A head that scores labels.
    pub(crate) fn labelled(&self, over: Over, dense: Option<Dense>, names: [&'static str; 2]) -> HeadConfig {
        let bias: &'static [&'static str] = match names[1] {
            "classifier.bias" => &["classifier.bias"],
            "classifier.out_proj.bias" => &["classifier.out_proj.bias"],
            _ => &[],
        };
        HeadConfig { dense: self.dense(dense), ..self.plain(over, names[0], self.labels.len(), bias) }
    }

    /// A question-answering head, which scores the first and the last token of answers.
    pub(crate) fn ends(&self, out: &'static str, bias: &'static [&'static str]) -> HeadConfig {
        self.plain(Over::Tokens, out, 2, bias)
    }

    pub(crate) fn labels(self) -> Vec<String> {
        self.labels
    }
}

/// The names of the labels: `id2label`, whose values may be numbers, or `LABEL_0` and so on.
fn labels(fields: &Fields) -> Result<Vec<String>, Error> {
    let Some(map) = fields.get("id2label") else {
        let n = fields.size("num_labels", 2)?;
        return Ok((0..n).map(|i| format!("LABEL_{i}")).collect());
    };
    let wrong = || fields.error("field `id2label`: want an object of the numbers from 0 on and names");
    let map = map.as_object().ok_or_else(wrong)?;
    let name = |i: usize| match map.get(&i.to_string()).ok_or_else(wrong)? {
        Value::String(name) => Ok(name.clone()),
        plain @ (Value::Number(_) | Value::Bool(_)) => Ok(plain.to_string()),
        _ => Err(wrong()),
    };
    (0..map.len()).map(name).collect()
}

/// The feed-forward layer of BERT and related models.
pub(crate) fn feed_forward(
    fields: &Fields,
    inner: usize,
    activation: Activation,
    names: [&'static str; 2],
) -> Result<FeedForwardConfig, Error> {
    let inner = fields.size("intermediate_size", inner)?;
    Ok(FeedForwardConfig { inner, activation, gated: false, bias: Bias::Yes, names, layout: Layout::Same })
}
