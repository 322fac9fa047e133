//! The TOML configuration of a training, a file for each group of tables.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Error;

mod data;
mod objective;
mod optimiser;
mod rest;
mod template;

pub use data::{Data, Format, HeldOut, Packing, Source, Tokenizer};
pub use objective::{LossOn, Objective, TableOf, TextsOf};
pub use optimiser::{ClipBy, Flow, Group, Kind, Optimiser, Schedule, SegmentsOf, Span};
pub use rest::{Evaluate, Lora, Report};
pub use template::{TEMPLATES, template};

/// The configuration of a training. Paths are relative to the TOML file; `$NAME` in the path of a source is replaced by the environment variable.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Directory for checkpoints, the loss curve and the trained model.
    pub output: PathBuf,
    /// Seed of the initial weights and of the order of the data.
    #[serde(default)]
    pub seed: u64,
    /// The model to start from: a directory, a GGUF file or a Hub id. A model with random weights, described by `model`, if `None`.
    pub from: Option<String>,
    /// What the model learns.
    #[serde(default)]
    pub objective: Objective,
    /// The training data.
    pub data: Data,
    /// The tokenizer; that of the model if it has one.
    #[serde(default)]
    pub tokenizer: Tokenizer,
    /// A model with random weights, as the fields of a `config.json`.
    #[serde(default)]
    pub model: toml::Table,
    /// Parameters whose names contain one of these strings are not trained.
    #[serde(default)]
    pub frozen: Vec<String>,
    /// Whether activations are computed again on the way back, block by block, in place of being stored: less memory for one more
    /// forward pass. The results are the same.
    #[serde(default)]
    pub recompute: bool,
    /// The part of the hidden states that is dropped while the model is trained, at least 0 and below 1. Srivastava et al. 2014.
    #[serde(default)]
    pub dropout: f64,
    /// The optimiser and the training loop.
    pub optimiser: Optimiser,
    /// Low-rank updates in place of the training of all weights.
    pub lora: Option<Lora>,
    /// Evaluation while the model is trained.
    #[serde(default)]
    pub evaluate: Evaluate,
    /// What is written about the training.
    #[serde(default)]
    pub report: Report,
    /// The text of the file, for the report.
    #[serde(skip)]
    pub text: String,
}

impl Config {
    /// Reads and checks a TOML file; the error names the file and the field.
    pub fn read(file: &Path) -> Result<Self, Error> {
        Self::read_with(file, &[])
    }

    /// As [`Config::read`], after setting fields: each of `set` is `NAME=VALUE`, such as `optimiser.rate=1e-4`, with a value in TOML or a bare word.
    pub fn read_with(file: &Path, set: &[String]) -> Result<Self, Error> {
        let wrong = |message: String| Error::Config { file: file.display().to_string(), message };
        let mut config: Config = if set.is_empty() {
            read(file)?
        } else {
            let mut table: toml::Table = read(file)?;
            set.iter().try_for_each(|assignment| assign(&mut table, assignment)).map_err(&wrong)?;
            table.try_into().map_err(|e: toml::de::Error| wrong(e.to_string().trim_end().to_owned()))?
        };
        config.text = std::fs::read_to_string(file).map_err(|e| Error::io(file, e))?;
        set.iter().for_each(|assignment| config.text.push_str(&format!("\n# --set {assignment}")));
        config.resolve(file.parent().unwrap_or(Path::new(""))).map_err(&wrong)?;
        config.check().map_err(wrong)?;
        Ok(config)
    }

    /// Makes paths relative to the directory of the file.
    fn resolve(&mut self, base: &Path) -> Result<(), String> {
        let within = |path: &str| expand(path).map(|path| base.join(path).display().to_string());
        self.output = base.join(&self.output);
        self.tokenizer.file = self.tokenizer.file.take().map(|file| base.join(file));
        for source in &mut self.data.sources {
            source.path = within(&source.path)?;
        }
        if let HeldOut::Path { path } = &mut self.data.held_out {
            *path = within(path)?;
        }
        if let Some(from) = &mut self.from {
            let path = within(from)?;
            // What is no path is the id of a model on the Hub.
            if Path::new(&path).exists() {
                *from = path;
            }
        }
        if let Some(from) = self.lora.as_mut().and_then(|lora| lora.from.as_mut()) {
            *from = base.join(&*from);
        }
        Ok(())
    }

    /// An error if rows are streamed that have to be known before.
    fn check_stream(&self) -> Result<(), String> {
        if !self.data.stream {
            return Ok(());
        }
        let labels = match &self.objective {
            Objective::Texts { of, labels, .. } => *of != TextsOf::Number && labels.is_empty(),
            Objective::Tokens { labels, .. } => labels.is_empty(),
            _ => false,
        };
        match () {
            () if self.data.format != Format::Table => {
                Err("`data.stream`: want `data.format` \"table\"; files of token ids are mapped in any case".into())
            }
            () if self.optimiser.epochs.is_some() => {
                Err("`optimiser.epochs`: want `steps` where rows are streamed, as their number is not known".into())
            }
            () if labels => {
                Err("`objective.labels`: want all labels where rows are streamed, as they are not read before".into())
            }
            () if self.data.shuffle == 0 => Err("`data.shuffle`: want at least 1 row, found 0".into()),
            () => Ok(()),
        }
    }

    /// An error if a field does not go with tables.
    fn check_table(&self) -> Result<(), String> {
        let Objective::Table { columns, .. } = &self.objective else { return Ok(()) };
        match () {
            () if self.data.format != Format::Table => {
                Err("`data.format`: want \"table\" for the objective `table`".into())
            }
            () if self.data.stream => Err("`data.stream`: the statistics of a table need all of its rows".into()),
            () if self.recompute => Err("`recompute`: the model of a table has none".into()),
            () if self.lora.is_some() => Err("`lora`: the model of a table has none: train all weights".into()),
            () if self.from.is_none() && columns.is_empty() => {
                Err("`objective.columns`: want the columns to predict from".into())
            }
            () => Ok(()),
        }
    }

    fn check(&self) -> Result<(), String> {
        self.optimiser.check()?;
        self.objective.check()?;
        if self.data.sources.is_empty() {
            return Err("`data.sources`: want at least one".into());
        }
        let part = self.data.held_out.part();
        if !(0.0..1.0).contains(&part) {
            return Err(format!("`data.held_out`: want at least 0 and below 1, found {part}"));
        }
        if let Some(weight) = self.data.sources.iter().filter_map(|s| s.weight).find(|w| !(*w > 0.0 && w.is_finite())) {
            return Err(format!("`data.sources.weight`: want a number above 0, found {weight}"));
        }
        if self.recompute && self.optimiser.segments.is_some() {
            return Err("`recompute`: segments are computed again in any case: want one of `recompute` and `optimiser.segments`".into());
        }
        self.check_stream()?;
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(format!("`dropout`: want at least 0 and below 1, found {}", self.dropout));
        }
        self.check_table()?;
        let windows = self.data.format != Format::Table && matches!(self.objective, Objective::Causal { .. });
        if windows && self.optimiser.length == 0 {
            return Err("`optimiser.length`: want at least 1, found 0".into());
        }
        match (&self.from, self.model.is_empty()) {
            (Some(from), false) => return Err(format!("want either `from` or `model`, found `{from}` and a model")),
            (None, true) => {
                return Err("want `from`, a model to start from, or `model`, the fields of a config.json".into());
            }
            _ => {}
        }
        let table = matches!(self.objective, Objective::Table { .. });
        let given = usize::from(self.tokenizer.file.is_some()) + usize::from(self.tokenizer.vocabulary.is_some());
        let none = self.from.is_some() || self.data.format == Format::Tokens || table;
        if given > 1 || (given == 0 && !none) {
            return Err("`tokenizer`: want either `file` or `vocabulary`".into());
        }
        if let Some(lora) = &self.lora {
            if self.from.is_none() {
                return Err("`lora`: want `from` as well, the model whose weights stay as they are".into());
            }
            if lora.rank == 0 || !lora.alpha.is_finite() {
                return Err(format!("`lora.rank`: want at least 1, found {}, and a finite `alpha`", lora.rank));
            }
        }
        if self.evaluate.patience.is_some() && self.evaluate.every == 0 {
            return Err("`evaluate.patience`: want `every` as well, the number of steps between evaluations".into());
        }
        Ok(())
    }
}

/// Sets a field of a table by its dotted name.
fn assign(table: &mut toml::Table, assignment: &str) -> Result<(), String> {
    let (name, value) = assignment
        .split_once('=')
        .ok_or_else(|| format!("--set {assignment}: want NAME=VALUE, such as optimiser.rate=1e-4"))?;
    let value = match toml::from_str::<toml::Table>(&format!("value = {value}")) {
        Ok(mut parsed) => parsed.remove("value").unwrap_or(toml::Value::String(value.to_owned())),
        Err(_) => toml::Value::String(value.to_owned()),
    };
    let (path, last) = name.rsplit_once('.').map_or((None, name), |(path, last)| (Some(path), last));
    let mut at = table;
    for part in path.into_iter().flat_map(|path| path.split('.')) {
        let inner = at.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = inner.as_table_mut().ok_or_else(|| format!("--set {assignment}: `{part}` is not a table"))?;
    }
    at.insert(last.to_owned(), value);
    Ok(())
}

/// Reads a TOML file.
pub(crate) fn read<T: DeserializeOwned>(file: &Path) -> Result<T, Error> {
    let text = std::fs::read_to_string(file).map_err(|e| Error::io(file, e))?;
    let wrong = |e: toml::de::Error| e.to_string().trim_end().to_owned();
    toml::from_str(&text).map_err(|e| Error::Config { file: file.display().to_string(), message: wrong(e) })
}

/// Replaces `$NAME` by the value of the environment variable.
fn expand(path: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = path;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let name: String = rest[at + 1..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        out.push_str(
            &std::env::var(&name).map_err(|_| format!("`{path}`: the environment variable `{name}` is not set"))?,
        );
        rest = &rest[at + 1 + name.len()..];
    }
    out.push_str(rest);
    Ok(out)
}
