//! Encoders: what their configurations say, and models with their heads.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use longreach_nn::{
    Activation, Bias, Body, BodyConfig, Builder, FeedForwardConfig, Head, HeadConfig, Layout, Names, NormConfig, Over,
    Pooler, Random, Reading, gathered,
};

use crate::model::read_config;
use crate::{
    Checkpoint, DType, Error, Fields, Location, MODELS, bert, big_bird, distilbert, gpt2, longformer, modernbert,
    nystromformer, reformer, roberta,
};

/// A type of encoder that can be loaded.
#[derive(Clone, Copy, Debug)]
pub struct EncoderArchitecture {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// The mechanism of its attention.
    pub mechanism: &'static str,
    /// Where it was published.
    pub paper: &'static str,
    /// Reads its configuration.
    pub describe: fn(&Fields) -> Result<EncoderDescription, Error>,
}

/// Every type of encoder of this crate.
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

/// The type of encoder whose configuration this is, if it is one's. A type that also writes is one where it has another head than a language model's.
pub(crate) fn architecture(fields: &Fields) -> Result<Option<&'static EncoderArchitecture>, Error> {
    let found = fields.text("model_type")?;
    let known = ENCODERS.iter().find(|known| Some(known.model_type) == found);
    let writes = MODELS.iter().any(|model| Some(model.model_type) == found);
    let scores = matches!(Task::of(fields), Some(Task::Sequence | Task::Token | Task::Question));
    Ok(known.filter(|_| scores || !writes))
}

/// What a checkpoint's head is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Scores of the vocabulary at every token.
    MaskedLm,
    /// Scores of labels for a text.
    Sequence,
    /// Scores of labels at every token.
    Token,
    /// Scores at every token of being the answer's first and its last.
    Question,
}

impl Task {
    /// The head that `architectures` names, if any.
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

    /// What it is in words.
    pub fn about(self) -> &'static str {
        match self {
            Task::MaskedLm => "a language model's head",
            Task::Sequence => "a head that classifies texts",
            Task::Token => "a head that classifies tokens",
            Task::Question => "a head that answers questions",
        }
    }
}

/// An encoder as its configuration describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderDescription {
    /// `model_type`.
    pub model_type: &'static str,
    /// What it is made of, but for heads.
    pub body: BodyConfig,
    /// The name of the pooler within the body and what it applies, of a type that may have one.
    pub pooler: Option<(&'static str, Activation)>,
    /// The head, if it has one.
    pub head: Option<(Task, HeadConfig)>,
    /// The names of labels, of a head that has such.
    pub labels: Vec<String>,
    /// The longest text it was made for, in tokens.
    pub longest: Option<usize>,
    /// The token that stands for nothing.
    pub pad: u32,
    /// The token between two texts.
    pub separator: Option<u32>,
    /// Which tokens are global where nobody says it, for the head it has.
    pub global: GlobalByDefault,
    /// Whether a question's tokens have the first type, all others the second where nobody says it, and the question is no answer: BigBird's way.
    pub questions: bool,
}

/// Which tokens are global where nobody says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GlobalByDefault {
    /// None.
    None,
    /// The first.
    First,
    /// All before the first separator: the question.
    Question,
}

impl EncoderDescription {
    /// What the fields describe, by their `model_type`; nothing if that is no encoder's.
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
    /// What it is.
    pub description: EncoderDescription,
    /// The network.
    pub encoder: Body,
    /// The pooler, if the checkpoint has one.
    pub pooler: Option<Pooler>,
    /// The head, if it has one.
    pub head: Option<Head>,
    /// The tensors' names, for writing them back.
    pub names: Names,
    /// The precision its matrices are kept in.
    pub dtype: DType,
    /// Its configuration, as the file has it.
    pub config: String,
    /// The checkpoint, whose mapping the weights may lie in; absent for one drawn at random.
    pub checkpoint: Option<Checkpoint>,
}

/// What an encoder makes of a batch.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// `[B, T, d]`, after the last norm
    pub hidden: Tensor<3>,
    /// `[texts, d]`, of a checkpoint that has a pooler
    pub pooled: Option<Tensor<2>>,
    /// `[texts or tokens, scores]`, of one that has a head
    pub scores: Option<Tensor<2>>,
}

impl EncoderModel {
    /// Whether `config.json` of a directory is an encoder's.
    pub fn is_at(at: &Location) -> Result<bool, Error> {
        let (file, config) = read_config(&at.directory)?;
        let fields = Fields::parse(file.display().to_string(), &config)?;
        Ok(architecture(&fields)?.is_some())
    }

    /// Loads a model, keeping its matrices in `dtype`, or as they are stored.
    pub fn load(at: &Location, dtype: Option<DType>) -> Result<Self, Error> {
        let (file, config) = read_config(&at.directory)?;
        let fields = Fields::parse(file.display().to_string(), &config)?;
        let Some(description) = EncoderDescription::of(&fields)? else {
            let known = ENCODERS.iter().map(|m| m.model_type).collect::<Vec<_>>().join(", ");
            let found = fields.text("model_type")?.unwrap_or("nothing").to_owned();
            let message = format!("model_type `{found}` is no encoder; encoders are {known}");
            return Err(fields.error(message));
        };
        let checkpoint = match &at.weights {
            Some(file) => Checkpoint::open_files(std::slice::from_ref(file))?,
            None => Checkpoint::open(&at.directory)?,
        };
        let mut checkpoint = checkpoint.keep_as(dtype).allow_without(description.body.name());
        let mut builder = Builder::new(&mut checkpoint, &Device::flex());
        let (encoder, pooler, head) = build(&mut builder, &description)?;
        let names = builder.into_names();
        let dtype = checkpoint.dtype();
        Ok(Self { description, encoder, pooler, head, names, dtype, config, checkpoint: Some(checkpoint) })
    }

    /// A model of the configuration with weights drawn at random, on `device`.
    pub fn random(file: &str, config: &str, seed: u64, device: &Device) -> Result<Self, Error> {
        let fields = Fields::parse(file, config)?;
        let Some(description) = EncoderDescription::of(&fields)? else {
            return Err(fields.error("field `model_type`: no encoder's"));
        };
        let mut source = Random::new(seed);
        let mut builder = Builder::new(&mut source, device);
        let (encoder, pooler, head) = build(&mut builder, &description)?;
        let names = builder.into_names();
        let config = config.to_owned();
        Ok(Self { description, encoder, pooler, head, names, dtype: DType::F32, config, checkpoint: None })
    }

    /// Hidden states, and what pooler and head make of them. Panics if an id, a type or a position is beyond its table.
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
                // The first token stays: an answer there means that there is none.
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

    /// Which tokens are of a question: those up to the first separator of a text, or its first one.
    fn questions(&self, ids: &[u32], bounds: &[usize]) -> Vec<bool> {
        let text = |w: &[usize]| {
            let ids = &ids[w[0]..w[1]];
            let end = ids.iter().position(|id| Some(*id) == self.description.separator).unwrap_or(0);
            (0..ids.len()).map(|i| i <= end).collect::<Vec<_>>()
        };
        bounds.windows(2).flat_map(text).collect()
    }

    /// How many numbers the model has.
    pub fn parameters(&self) -> usize {
        let pooler = self.pooler.as_ref().map_or(0, Module::num_params);
        self.encoder.num_params() + pooler + self.head.as_ref().map_or(0, Module::num_params)
    }

    /// Which tokens of a text are global where nobody says it.
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

/// What `hidden_act` and its kin name.
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

/// The head a checkpoint has, and the names of its labels.
pub(crate) struct Heads {
    task: Option<Task>,
    hidden: usize,
    vocabulary: usize,
    labels: Vec<String>,
}

/// The first map of a head: its name, its bias and what follows it.
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

    /// A language model's: `decoder` is the last map, with a bias under one of the names.
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

    /// One that scores labels.
    pub(crate) fn labelled(&self, over: Over, dense: Option<Dense>, names: [&'static str; 2]) -> HeadConfig {
        let bias: &'static [&'static str] = match names[1] {
            "classifier.bias" => &["classifier.bias"],
            "classifier.out_proj.bias" => &["classifier.out_proj.bias"],
            _ => &[],
        };
        HeadConfig { dense: self.dense(dense), ..self.plain(over, names[0], self.labels.len(), bias) }
    }

    /// One that scores the two ends of answers.
    pub(crate) fn ends(&self, out: &'static str, bias: &'static [&'static str]) -> HeadConfig {
        self.plain(Over::Tokens, out, 2, bias)
    }

    pub(crate) fn labels(self) -> Vec<String> {
        self.labels
    }
}

/// The names of labels: `id2label`, or numbers.
fn labels(fields: &Fields) -> Result<Vec<String>, Error> {
    let Some(map) = fields.get("id2label") else {
        let n = fields.size("num_labels", 2)?;
        return Ok((0..n).map(|i| format!("LABEL_{i}")).collect());
    };
    let wrong = || fields.error("field `id2label`: want an object of the numbers from 0 on and names");
    let map = map.as_object().ok_or_else(wrong)?;
    let name = |i: usize| map.get(&i.to_string()).and_then(|v| v.as_str()).map(str::to_owned).ok_or_else(wrong);
    (0..map.len()).map(name).collect()
}

/// The feed-forward layer of BERT and its kin.
pub(crate) fn feed_forward(
    fields: &Fields,
    inner: usize,
    activation: Activation,
    names: [&'static str; 2],
) -> Result<FeedForwardConfig, Error> {
    let inner = fields.size("intermediate_size", inner)?;
    Ok(FeedForwardConfig { inner, activation, gated: false, bias: Bias::Yes, names, layout: Layout::Same })
}
