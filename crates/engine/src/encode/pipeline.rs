//! The pipeline from hidden states to vectors, as configured by sentence-transformers, PyLate and Stanford's ColBERT.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use burn::tensor::Device;
use longreach_models::Fields;
use serde_json::Value;

use super::Similarity;
use super::pooling::Pooling;
use super::steps::Step;
use crate::Error;

/// Settings of late interaction for queries and documents. Khattab and Zaharia 2020 (ColBERT), §3.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Late {
    pub(crate) query_prefix: String,
    pub(crate) document_prefix: String,
    pub(crate) query_length: usize,
    pub(crate) document_length: usize,
    /// Whether queries are padded with mask tokens to `query_length`.
    pub(crate) expansion: bool,
    /// Whether other tokens attend to them.
    pub(crate) attend: bool,
    pub(crate) skiplist: Vec<String>,
}

/// The steps from hidden states to vectors.
#[derive(Debug)]
pub struct Pipeline {
    /// Poolings, whose results are concatenated.
    pub pooling: Vec<Pooling>,
    /// Whether the tokens of the prompt are pooled as well.
    pub include_prompt: bool,
    /// The steps after the pooling, in order.
    pub(crate) steps: Vec<Step>,
    /// Number of leading dimensions to keep, if configured.
    pub truncate: Option<usize>,
    /// Similarity of vectors, if configured.
    pub similarity: Option<Similarity>,
    /// Whether the directory configures a pipeline; otherwise mean pooling is used.
    pub described: bool,
    /// Prompts by name.
    pub prompts: BTreeMap<String, String>,
    /// Name of the default prompt.
    pub default_prompt: Option<String>,
    pub(crate) late: Option<Late>,
    /// Input limit in tokens, if configured.
    pub(crate) limit: Option<usize>,
    pub(crate) lower: bool,
}

fn fields(file: &Path) -> Result<Fields, Error> {
    let text = std::fs::read_to_string(file).map_err(|source| Error::Io { path: file.to_owned(), source })?;
    Ok(Fields::parse(file.display().to_string(), &text)?)
}

impl Pipeline {
    /// The default pipeline: mean pooling.
    pub(crate) fn plain() -> Self {
        Self {
            pooling: vec![Pooling::Mean],
            include_prompt: true,
            steps: Vec::new(),
            truncate: None,
            similarity: None,
            described: false,
            prompts: BTreeMap::new(),
            default_prompt: None,
            late: None,
            limit: None,
            lower: false,
        }
    }

    /// Whether the resulting vectors have unit length.
    pub fn normalizes(&self) -> bool {
        matches!(self.steps.last(), Some(Step::Normalize))
    }

    /// Adds or removes normalisation at the end of the pipeline; earlier steps stay.
    pub fn set_normalize(&mut self, normalize: bool) {
        while !normalize && self.normalizes() {
            self.steps.pop();
        }
        if normalize && !self.normalizes() {
            self.steps.push(Step::Normalize);
        }
    }

    /// Number of dimensions of a vector, for hidden states of `width`.
    pub(crate) fn width(&self, width: usize) -> usize {
        let pooled = width * if self.late.is_some() { 1 } else { self.pooling.len().max(1) };
        let width = self.steps.iter().filter_map(Step::outputs).next_back().unwrap_or(pooled);
        self.truncate.map_or(width, |most| width.min(most))
    }

    /// Checks that the widths of consecutive steps match, for hidden states of `width`.
    pub(crate) fn check(&self, width: usize) -> Result<(), Error> {
        let mut width = width * if self.late.is_some() { 1 } else { self.pooling.len().max(1) };
        for (i, step) in self.steps.iter().enumerate() {
            if let Some(want) = step.inputs().filter(|want| *want != width) {
                let message =
                    format!("step {} after the pooling takes vectors of {want} dimensions, but gets {width}", i + 1);
                return Err(Error::Pipeline { file: "modules.json".into(), message });
            }
            width = step.outputs().unwrap_or(width);
        }
        Ok(())
    }

    /// Applies the steps after the pooling to concatenated vectors of `width` numbers.
    pub(crate) fn finished(&self, mut x: Vec<f32>, mut width: usize) -> Vec<f32> {
        for step in &self.steps {
            x = step.apply(x, width);
            width = step.outputs().unwrap_or(width);
        }
        match self.truncate {
            Some(most) if most < width => x.chunks(width).flat_map(|row| &row[..most]).copied().collect(),
            _ => x,
        }
    }

    /// Feeds the parameters of the steps to `part`, for hashing, without a final normalisation, which may be overridden.
    pub(crate) fn contents(&self, part: &mut impl FnMut(&[u8])) {
        let chosen = usize::from(self.normalizes());
        self.steps[..self.steps.len() - chosen].iter().for_each(|step| step.contents(part));
    }

    /// A description of the steps.
    pub fn about(&self) -> String {
        let mut parts = Vec::new();
        if self.late.is_none() {
            let ways = self.pooling.iter().map(|pooling| pooling.name()).collect::<Vec<_>>().join(" and ");
            parts.push(format!("{ways} pooling{}", if self.include_prompt { "" } else { " without the prompt" }));
        } else {
            parts.push("one vector per token, compared by MaxSim".into());
        }
        parts.extend(self.steps.iter().map(Step::about));
        parts.extend(self.truncate.map(|most| format!("truncated to {most} dimensions")));
        parts.join(", then ")
    }

    /// Loads the pipeline of a directory, and finds the directory of its encoder.
    pub(crate) fn load(directory: &Path, device: &Device) -> Result<(Self, PathBuf), Error> {
        let mut pipeline = Self::plain();
        let file = directory.join("modules.json");
        if !file.exists() {
            pipeline.read_stanford(directory, device)?;
            return Ok((pipeline, directory.to_owned()));
        }
        pipeline.described = true;
        let wrong = |message: String| Error::Pipeline { file: file.clone(), message };
        let text = std::fs::read_to_string(&file).map_err(|source| Error::Io { path: file.clone(), source })?;
        let modules: Vec<Value> = serde_json::from_str(&text).map_err(|e| {
            wrong(match longreach_models::recognise(text.as_bytes()) {
                Some(what) => format!("this file is {what}"),
                None => format!("want a list of modules: {e}"),
            })
        })?;
        // `config_sentence_transformers.json` says whether the modules apply to every token (late interaction).
        let settings = directory.join("config_sentence_transformers.json");
        if settings.exists() {
            pipeline.read_settings(&fields(&settings)?)?;
        }
        let (mut encoder, mut pooled) = (None, pipeline.late.is_some());
        for module in &modules {
            let part = |name: &str| {
                let found = module.get(name).and_then(Value::as_str);
                found.ok_or_else(|| wrong(format!("a module without a string `{name}`")))
            };
            let (path, kind) = (part("path")?, part("type")?);
            let at = within(directory, path)
                .ok_or_else(|| wrong(format!("module `{kind}`: path `{path}` leads out of the directory")))?;
            if !["sentence_transformers.", "pylate."].iter().any(|package| kind.starts_with(package)) {
                return Err(wrong(format!("module `{kind}` is custom code of the model, which is not supported")));
            }
            let name = kind.rsplit('.').next().unwrap_or_default();
            match name {
                "Transformer" if encoder.is_none() => {
                    pipeline.read_encoder(&at)?;
                    encoder = Some(at);
                }
                "Transformer" => return Err(wrong("a second module `Transformer` is not supported".into())),
                _ if encoder.is_none() => {
                    return Err(wrong(format!("module `{name}`: want a `Transformer` before it")));
                }
                "Pooling" if pooled => return Err(wrong("a second module `Pooling` is not supported".into())),
                "Pooling" => {
                    pipeline.read_pooling(&at.join("config.json"))?;
                    pooled = true;
                }
                // Dropout does nothing at inference.
                "Dropout" => {}
                "Dense" | "Normalize" | "LayerNorm" => pipeline.read_step(name, &at, pooled, device)?,
                other => {
                    let known = "Transformer, Pooling, Dense, LayerNorm, Normalize and Dropout";
                    return Err(wrong(format!("module `{other}` is not supported; supported are {known}")));
                }
            }
        }
        if !pooled {
            return Err(wrong(
                "it has no module `Pooling`, and the model is not configured for late interaction".into(),
            ));
        }
        let encoder = encoder.ok_or_else(|| wrong("it has no module `Transformer`".into()))?;
        Ok((pipeline, encoder))
    }

    fn read_step(&mut self, name: &str, at: &Path, pooled: bool, device: &Device) -> Result<(), Error> {
        let file = at.join("config.json");
        // Older versions write no file for `Normalize`.
        let f = if name == "Normalize" && !file.exists() { Fields::parse("", "{}")? } else { fields(&file)? };
        let want = if self.late.is_some() { "token_embeddings" } else { "sentence_embedding" };
        for field in ["module_input_name", "module_output_name"] {
            // PyLate's modules do not set these fields.
            let found = f.text(field)?.unwrap_or(want);
            if found != want && !(self.late.is_some() && found == "sentence_embedding") {
                return Err(f.error(format!("field `{field}`: want \"{want}\", found \"{found}\"")).into());
            }
        }
        if !pooled {
            return Err(f.error(format!("module `{name}` comes before the pooling, which is not supported")).into());
        }
        self.steps.push(Step::load(name, at, &f, device)?);
        Ok(())
    }

    /// Reads a checkpoint of Stanford's ColBERT: `artifact.metadata`, and a projection among the weights.
    fn read_stanford(&mut self, directory: &Path, device: &Device) -> Result<(), Error> {
        let config = directory.join("config.json");
        if !config.exists() {
            return Ok(());
        }
        let config = fields(&config)?;
        let named = config.get("architectures").and_then(Value::as_array).and_then(|list| list.first()?.as_str());
        if named != Some("HF_ColBERT") {
            return Ok(());
        }
        let file = directory.join("artifact.metadata");
        let f = if file.exists() { fields(&file)? } else { Fields::parse("artifact.metadata", "{}")? };
        let text = |name: &str, default: &str| f.text(name).map(|text| text.unwrap_or(default).to_owned());
        self.late = Some(Late {
            query_prefix: text("query_token_id", "[unused0]")?,
            document_prefix: text("doc_token_id", "[unused1]")?,
            query_length: f.size("query_maxlen", 32)?,
            document_length: f.size("doc_maxlen", 220)?,
            expansion: true,
            attend: f.flag("attend_to_mask_tokens", false)?,
            skiplist: if f.flag("mask_punctuation", true)? { punctuation() } else { Vec::new() },
        });
        let projection = Step::of_stanford(directory, config.size("hidden_size", 768)?, device)?;
        self.steps = vec![projection, Step::Normalize];
        self.described = true;
        Ok(())
    }

    fn read_encoder(&mut self, at: &Path) -> Result<(), Error> {
        let names = ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"];
        let files = names.map(|name| at.join(format!("sentence_{name}_config.json")));
        if let Some(file) = files.iter().find(|file| file.exists()) {
            let f = fields(file)?;
            self.limit = f.some_size("max_seq_length")?;
            self.lower = f.flag("do_lower_case", false)?;
            match f.text("transformer_task")? {
                None | Some("feature-extraction") => {}
                Some(task) => {
                    let message = format!("field `transformer_task`: want \"feature-extraction\", found \"{task}\"");
                    return Err(f.error(message).into());
                }
            }
            let output = f.objects("modality_config")?;
            let output = output.first().map(|of| of.objects("text")).transpose()?.unwrap_or_default();
            if let Some(found) = output.first().map(|of| of.text("method_output_name")).transpose()?.flatten()
                && found != "last_hidden_state"
            {
                let want = "field `modality_config.text.method_output_name`: want \"last_hidden_state\"";
                return Err(f.error(format!("{want}, found \"{found}\"")).into());
            }
            if let Some(more) = f.get("processing_kwargs")
                && more.as_object().is_none_or(|map| !map.is_empty())
            {
                return Err(f.error(format!("field `processing_kwargs`: {more} is not supported, want none")).into());
            }
        }
        Ok(())
    }

    fn read_pooling(&mut self, file: &Path) -> Result<(), Error> {
        let f = fields(file)?;
        let wrong = |found: &str| f.error(format!("field `pooling_mode`: `{found}` is not supported")).into();
        let named = |name: &str| Pooling::named(name).ok_or_else(|| wrong(name));
        self.pooling = match f.get("pooling_mode") {
            Some(Value::String(one)) => vec![named(one)?],
            Some(Value::Array(list)) => {
                list.iter().map(|one| named(one.as_str().unwrap_or("?"))).collect::<Result<_, Error>>()?
            }
            Some(other) => return Err(wrong(&other.to_string())),
            None => {
                let mut found = Vec::new();
                for (field, pooling) in [
                    ("pooling_mode_cls_token", Pooling::Cls),
                    ("pooling_mode_max_tokens", Pooling::Max),
                    ("pooling_mode_mean_tokens", Pooling::Mean),
                    ("pooling_mode_mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
                    ("pooling_mode_weightedmean_tokens", Pooling::WeightedMean),
                    ("pooling_mode_lasttoken", Pooling::LastToken),
                ] {
                    if f.flag(field, false)? {
                        found.push(pooling);
                    }
                }
                if found.is_empty() { vec![Pooling::Mean] } else { found }
            }
        };
        self.include_prompt = f.flag("include_prompt", true)?;
        Ok(())
    }

    /// Reads `config_sentence_transformers.json`.
    fn read_settings(&mut self, f: &Fields) -> Result<(), Error> {
        self.truncate = f.some_size("truncate_dim")?;
        self.similarity = match f.text("similarity_fn_name")? {
            // MaxSim is implied by late interaction.
            None | Some("MaxSim") => None,
            Some(name) => Some(name.parse().map_err(|e| f.error(format!("field `similarity_fn_name`: {e}")))?),
        };
        if let Some(prompts) = f.get("prompts") {
            let map = prompts.as_object().ok_or_else(|| f.error("field `prompts`: want an object of strings"))?;
            // Null prompts are ignored.
            for (name, text) in map.iter().filter(|(_, text)| !text.is_null()) {
                let text = text.as_str().ok_or_else(|| f.error(format!("field `prompts`: `{name}`: want a string")))?;
                self.prompts.insert(name.clone(), text.to_owned());
            }
        }
        self.default_prompt = f.text("default_prompt_name")?.map(str::to_owned);
        if let Some(name) = &self.default_prompt
            && !f.get("prompts").and_then(Value::as_object).is_some_and(|map| map.contains_key(name))
        {
            return Err(f.error(format!("field `default_prompt_name`: there is no prompt `{name}`")).into());
        }
        if f.text("model_type")? != Some("ColBERT") && !f.given("query_length") {
            return Ok(());
        }
        let text = |name: &str, default: &str| f.text(name).map(|text| text.unwrap_or(default).to_owned());
        let skiplist = match f.get("skiplist_words") {
            None => punctuation(),
            Some(list) => {
                let words =
                    list.as_array().and_then(|list| list.iter().map(|w| w.as_str().map(str::to_owned)).collect());
                words.ok_or_else(|| f.error("field `skiplist_words`: want a list of words"))?
            }
        };
        self.late = Some(Late {
            query_prefix: text("query_prefix", "[Q] ")?,
            document_prefix: text("document_prefix", "[D] ")?,
            query_length: f.size("query_length", 32)?,
            document_length: f.size("document_length", 180)?,
            expansion: f.flag("do_query_expansion", true)?,
            attend: f.flag("attend_to_expansion_tokens", false)?,
            skiplist,
        });
        Ok(())
    }
}

/// The default skiplist of PyLate and Stanford's ColBERT: Python's `string.punctuation`.
fn punctuation() -> Vec<String> {
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~".chars().map(String::from).collect()
}

/// Resolves a path of `modules.json`; `None` if it leads out of the directory.
fn within(directory: &Path, path: &str) -> Option<PathBuf> {
    let mut at = directory.to_owned();
    for part in Path::new(path).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) => at.push(name),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(at)
}
