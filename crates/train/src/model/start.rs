//! The beginning of a training: a model of somebody, or one of random weights, and its tokenizer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use longreach_engine::{ChatTemplate, Pooling, TextEncoder, Tokenizer};
use longreach_models::{
    Checkpoint, DType, Description, EncoderDescription, EncoderModel, Fields, Location, Model, Progress, TableModel,
};
use longreach_nn::{Builder, Random};
use serde_json::{Map, Value, json};

use super::Trained;
use super::adapter::AdapterWeights;
use super::plan::{LoraPlan, Plan};
use crate::Error;
use crate::config::{Config, Lora, Objective, TextsOf};
use crate::texts::Texts;

/// A model that was found, before its parameters are placed on the graph.
pub(crate) struct Starting {
    at: Option<Location>,
    /// The text of its `config.json`.
    config: String,
    checkpoint: Option<Checkpoint>,
    /// `None` for an encoder.
    decoder: Option<Model>,
    pooling: Pooling,
    /// Its tokenizer; `None` if it has none.
    pub(crate) tokenizer: Option<Tokenizer>,
    pub(crate) template: Option<ChatTemplate>,
    /// The largest number of tokens of a text.
    pub(crate) limit: usize,
    mask: Option<String>,
}

/// A model on the graph.
pub(crate) struct Started {
    pub(crate) model: Trained,
    /// What a user should know, one sentence each.
    pub(crate) notes: Vec<String>,
    /// The location of the files of the model that it started from.
    pub(crate) at: Option<Location>,
    /// The layers with a low-rank update.
    pub(crate) updated: Vec<String>,
}

/// The names of the heads that an encoder's checkpoint brings for an objective, as the end of the entry of `architectures`.
fn architecture(objective: &Objective) -> &'static str {
    match objective {
        Objective::Causal { .. } => "ForCausalLM",
        Objective::Masked { .. } => "ForMaskedLM",
        Objective::Texts { .. } => "ForSequenceClassification",
        Objective::Tokens { .. } => "ForTokenClassification",
        Objective::Spans { .. } => "ForQuestionAnswering",
        Objective::Contrastive { .. } | Objective::Table { .. } => "Model",
    }
}

/// The beginning of the class names of a model type in transformers.
fn class(model_type: &str) -> &str {
    match model_type {
        "bert" => "Bert",
        "roberta" => "Roberta",
        "xlm-roberta" => "XLMRoberta",
        "distilbert" => "DistilBert",
        "nomic_bert" => "NomicBert",
        "modernbert" => "ModernBert",
        "longformer" => "Longformer",
        "big_bird" => "BigBird",
        "nystromformer" => "Nystromformer",
        "reformer" => "Reformer",
        "gpt2" => "GPT2",
        other => other,
    }
}

impl Starting {
    /// Finds the model of a configuration. Errors if a file is missing or damaged, or the model cannot learn the objective.
    pub(crate) fn find(config: &Config) -> Result<Self, Error> {
        let causal = matches!(config.objective, Objective::Causal { .. });
        let Some(from) = &config.from else {
            let tokenizer = config.tokenizer.file.as_deref().map(parse).transpose()?;
            let text = serde_json::to_string_pretty(&config.model).unwrap_or_default();
            return Ok(Self {
                at: None,
                config: text,
                checkpoint: None,
                decoder: None,
                pooling: Pooling::Mean,
                tokenizer,
                template: None,
                limit: usize::MAX,
                mask: None,
            });
        };
        let at = Location::find(from, Progress::Shown)?;
        if matches!(config.objective, Objective::Table { .. }) {
            return Self::table(at);
        }
        let dtype = if config.lora.is_some() { None } else { Some(DType::F32) };
        let own = config.tokenizer.file.as_deref().map(parse).transpose()?;
        if causal {
            return Self::decoder(at, dtype, own);
        }
        Self::encoder(config, from, at, dtype, own)
    }

    /// A language model.
    fn decoder(at: Location, dtype: Option<DType>, own: Option<Tokenizer>) -> Result<Self, Error> {
        let mut model = load(&at, dtype)?;
        let tokenizer = own.map_or_else(|| Tokenizer::of(&at), |own| Ok(Some(own)))?;
        let template = match at.gguf() {
            Some(_) => None,
            None => ChatTemplate::load(&at.directory)?,
        };
        let limit = model.decoder.longest().unwrap_or(usize::MAX);
        let (checkpoint, text) = (model.checkpoint.take(), model.config.clone());
        let decoder = Some(model);
        let pooling = Pooling::Mean;
        Ok(Self { at: Some(at), config: text, checkpoint, decoder, pooling, tokenizer, template, limit, mask: None })
    }

    /// The model of a table.
    fn table(at: Location) -> Result<Self, Error> {
        let config = TableModel::load(&at)?.config;
        let checkpoint = Some(Checkpoint::at(&at)?.keep_as(Some(DType::F32)));
        Ok(Self {
            at: Some(at),
            config,
            checkpoint,
            decoder: None,
            pooling: Pooling::Mean,
            tokenizer: None,
            template: None,
            limit: usize::MAX,
            mask: None,
        })
    }

    /// The text of its `config.json`.
    pub(crate) fn config(&self) -> &str {
        &self.config
    }

    /// Replaces the text of the `config.json` of a model of random weights.
    pub(crate) fn set_config(&mut self, text: String) {
        self.config = text;
    }

    /// An encoder.
    fn encoder(
        config: &Config,
        from: &str,
        at: Location,
        dtype: Option<DType>,
        own: Option<Tokenizer>,
    ) -> Result<Self, Error> {
        let encoder = TextEncoder::load(from, dtype, Progress::Shown)?;
        let wrong = |message: &str| Error::Config { file: from.to_owned(), message: message.to_owned() };
        let [pooling] = encoder.pipeline.pooling[..] else {
            return Err(wrong("models of several poolings cannot be trained"));
        };
        if encoder.is_late() {
            return Err(wrong("late-interaction models cannot be trained"));
        }
        if matches!(config.objective, Objective::Contrastive { .. })
            && encoder.width() != encoder.model.description.body.width()
        {
            return Err(wrong("models with dense layers after the pooling cannot be trained"));
        }
        let text = encoder.tokenizer().to_string(false).map_err(|e| Error::Tokenizer(e.to_string()))?;
        let tokenizer = own.map_or_else(|| Tokenizer::parse(from, &text), Ok)?;
        let limit = encoder.model.description.longest.unwrap_or(usize::MAX);
        let mask = Some(encoder.special("mask_token", "[MASK]"));
        let mut model = encoder.model;
        let (checkpoint, config) = (model.checkpoint.take(), model.config);
        Ok(Self {
            at: Some(at),
            config,
            checkpoint,
            decoder: None,
            pooling,
            tokenizer: Some(tokenizer),
            template: None,
            limit,
            mask,
        })
    }

    /// The tokenizer with what an objective needs to know of it.
    pub(crate) fn texts(&self, tokenizer: Tokenizer, length: usize) -> Result<Texts, Error> {
        let ends: Vec<u32> = match &self.decoder {
            Some(model) => model.description.eos.clone(),
            None => Vec::new(),
        };
        let length = if length == 0 { self.limit.min(512) } else { length.min(self.limit) };
        Texts::new(tokenizer, length, ends, self.mask.as_deref(), self.template.clone())
    }

    /// Completes the `config.json` of a language model with random weights.
    pub(crate) fn complete(&mut self, vocabulary: usize, end: Option<u32>) -> Result<(), Error> {
        if self.at.is_some() {
            return Ok(());
        }
        let wrong = |e: serde_json::Error| Error::Config { file: "model".into(), message: e.to_string() };
        let mut fields: Map<String, Value> = serde_json::from_str(&self.config).map_err(wrong)?;
        fields.insert("vocab_size".into(), json!(vocabulary));
        if let Some(end) = end {
            for name in ["eos_token_id", "bos_token_id", "pad_token_id"] {
                fields.insert(name.into(), json!(end));
            }
        }
        self.config = serde_json::to_string_pretty(&fields).map_err(wrong)?;
        Ok(())
    }

    /// Builds the model on the graph, with a head for `labels` if the objective has labels.
    pub(crate) fn build(mut self, config: &Config, vocabulary: usize, labels: &[String]) -> Result<Started, Error> {
        let random = Random::new(config.seed);
        let causal = matches!(config.objective, Objective::Causal { .. });
        let table = matches!(config.objective, Objective::Table { .. });
        let text =
            if causal || table { self.config.clone() } else { self.described(&config.objective, labels, vocabulary)? };
        let described = if causal || table {
            None
        } else {
            let fields = Fields::parse("model", &text)?;
            let found = EncoderDescription::of(&fields)?;
            Some(found.ok_or_else(|| wrong_objective(config))?)
        };
        let (body, head) = match (&described, &self.decoder) {
            (Some(described), _) => (format!("{}.", described.body.name()), String::new()),
            (None, Some(model)) => {
                let names = &model.description.decoder.names;
                (format!("{}.", names.body), names.head.clone())
            }
            (None, None) => (String::new(), String::new()),
        };
        let new_head = !matches!(config.objective, Objective::Causal { .. });
        let labelled =
            matches!(config.objective, Objective::Texts { .. } | Objective::Tokens { .. } | Objective::Spans { .. });
        let tied =
            described.as_ref().and_then(|d| d.head.as_ref()).filter(|(_, head)| head.tied && self.checkpoint.is_none());
        let lora = config.lora.as_ref().map(|lora| low_rank(config, lora, head, &body)).transpose()?;
        let mut plan = Plan {
            checkpoint: self.checkpoint.take(),
            random,
            body,
            new_head: new_head && !table && (labelled || config.lora.is_none()),
            tied: tied.map(|(_, head)| format!("{}.weight", head.out)),
            frozen: &config.frozen,
            unmatched: config.frozen.iter().cloned().collect::<BTreeSet<_>>(),
            lora,
            fresh: Vec::new(),
        };
        let device = longreach_burn::cpu().autodiff();
        let model = if table {
            Trained::Table(TableModel::from_source("model", &text, &mut plan, &device)?)
        } else if described.is_some() {
            Trained::Encoder(EncoderModel::from_source("model", &text, &mut plan, &device)?, self.pooling)
        } else if let Some(mut model) = self.decoder.take() {
            let mut builder = Builder::new(&mut plan, &device);
            model.decoder = model.description.build(&mut builder).map_err(longreach_models::Error::from)?;
            model.names = builder.into_names();
            Trained::Decoder(model)
        } else {
            Trained::Decoder(random_decoder(config, &text, &mut plan, &device)?)
        };
        let model = if config.recompute { model.recomputing() } else { model };
        let updated = plan.lora.as_ref().map(|lora| lora.updated.clone()).unwrap_or_default();
        check(config, &plan, &updated)?;
        let notes = match plan.fresh.len() {
            0 => Vec::new(),
            n => vec![format!(
                "{n} weights that {} lacks start at random, such as `{}`",
                config.from.as_deref().unwrap_or("the model"),
                plan.fresh[0]
            )],
        };
        Ok(Started { model, notes, at: self.at, updated })
    }

    /// The `config.json` of an encoder with the head of an objective.
    fn described(&self, objective: &Objective, labels: &[String], vocabulary: usize) -> Result<String, Error> {
        let wrong = |e: serde_json::Error| Error::Config { file: "model".into(), message: e.to_string() };
        let mut fields: Map<String, Value> = serde_json::from_str(&self.config).map_err(wrong)?;
        let model_type = fields.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = format!("{}{}", class(&model_type), architecture(objective));
        fields.insert("architectures".into(), json!([name]));
        if self.checkpoint.is_none() {
            fields.insert("vocab_size".into(), json!(vocabulary));
        }
        if let Objective::Texts { .. } | Objective::Tokens { .. } = objective {
            let numbered = |(i, label): (usize, &String)| (i.to_string(), json!(label));
            let by_name = |(i, label): (usize, &String)| (label.clone(), json!(i));
            let by_number: Map<String, Value> = labels.iter().enumerate().map(numbered).collect();
            fields.insert("id2label".into(), Value::Object(by_number));
            fields.insert("label2id".into(), Value::Object(labels.iter().enumerate().map(by_name).collect()));
            fields.remove("num_labels");
        }
        if let Objective::Texts { of, .. } = objective {
            let problem = match of {
                TextsOf::One => "single_label_classification",
                TextsOf::Several => "multi_label_classification",
                TextsOf::Number => "regression",
            };
            fields.insert("problem_type".into(), json!(problem));
        }
        serde_json::to_string_pretty(&fields).map_err(wrong)
    }
}

/// Loads a language model, which is written in the layout of Hugging Face, also if it is read from a GGUF file.
pub(super) fn load(at: &Location, dtype: Option<DType>) -> Result<Model, Error> {
    let mut model = Model::load(at, dtype)?;
    if at.gguf().is_some() {
        model.description.rewrites = Description::of(&Fields::parse("config.json", &model.config)?)?.rewrites;
    }
    Ok(model)
}

/// The low-rank updates of a model with the output layer `head` and the prefix `body`.
fn low_rank<'a>(config: &Config, lora: &'a Lora, head: String, body: &str) -> Result<LoraPlan<'a>, Error> {
    let bare = matches!(config.objective, Objective::Contrastive { .. });
    Ok(LoraPlan {
        config: lora,
        head,
        // PEFT names the layers of a body without a head without its prefix.
        strip: if bare { body.to_owned() } else { String::new() },
        from: lora.from.as_deref().map(AdapterWeights::open).transpose()?,
        updated: Vec::new(),
    })
}

/// A decoder with random weights.
fn random_decoder(config: &Config, text: &str, plan: &mut Plan<'_>, device: &Device) -> Result<Model, Error> {
    let mut model = Model::random("model", text, config.seed, &longreach_burn::cpu())?;
    let mut builder = Builder::new(plan, device);
    model.decoder = model.description.build(&mut builder).map_err(longreach_models::Error::from)?;
    model.names = builder.into_names();
    Ok(model)
}

/// An error if a part of a name matches nothing.
fn check(config: &Config, plan: &Plan<'_>, updated: &[String]) -> Result<(), Error> {
    let wrong = |message: String| Err(Error::Config { file: "model".into(), message });
    if let Some(part) = plan.unmatched.first() {
        return wrong(format!("`frozen`: no parameter's name contains `{part}`"));
    }
    let Some(lora) = &config.lora else { return Ok(()) };
    if let Some(target) = lora.targets.iter().find(|t| !updated.iter().any(|layer| layer.ends_with(t.as_str()))) {
        return wrong(format!("`lora.targets`: no layer's name ends with `{target}`"));
    }
    Ok(())
}

fn wrong_objective(config: &Config) -> Error {
    Error::Config {
        file: config.from.clone().unwrap_or_else(|| "model".into()),
        message: format!(
            "`objective`: `{}` is learnt by encoders, and this is a language model",
            config.objective.name()
        ),
    }
}

/// Reads a `tokenizer.json`.
fn parse(file: &Path) -> Result<Tokenizer, Error> {
    let text = std::fs::read_to_string(file).map_err(|e| Error::io(PathBuf::from(file), e))?;
    Ok(Tokenizer::parse(&file.display().to_string(), &text)?)
}
