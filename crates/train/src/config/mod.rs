//! The TOML configuration of a training.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// The configuration of a training. Paths are relative to the TOML file; `$NAME` in the path of a source is replaced by the environment variable.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Directory for checkpoints, the loss curve and the trained model.
    pub output: PathBuf,
    /// Seed of the initial weights and of the order of the data.
    #[serde(default)]
    pub seed: u64,
    /// The training text.
    pub data: Data,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The model, as the fields of a `config.json`.
    pub model: toml::Table,
    /// The optimiser and the training loop.
    pub optimiser: Optimiser,
}

/// The training text.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Files and directories to read.
    pub sources: Vec<Source>,
    /// Fraction of the pages to hold out for evaluation, at least 0 and below 1; they are chosen by a hash of their names.
    #[serde(default = "held_out")]
    pub held_out: f64,
}

fn held_out() -> f64 {
    0.05
}

/// A file or a directory tree of `.html`, `.md` and `.txt` files; HTML is converted to text.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The file or directory.
    pub path: String,
    /// CSS selector of the elements of an HTML page that hold its text.
    #[serde(default = "body")]
    pub select: String,
    /// CSS selector of elements inside those to drop, such as `pre` to keep only prose.
    pub drop: Option<String>,
    /// Files whose path contains one of these strings are skipped.
    #[serde(default)]
    pub exclude: Vec<String>,
}

fn body() -> String {
    "body".into()
}

/// The tokenizer: an existing file, or the vocabulary size of a byte-level BPE to train.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokenizer {
    /// Path of a `tokenizer.json`.
    pub file: Option<PathBuf>,
    /// Vocabulary size of the tokenizer to train.
    pub vocabulary: Option<usize>,
}

/// The optimiser (AdamW, Loshchilov and Hutter 2019) and the training loop.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimiser {
    /// Number of steps.
    pub steps: usize,
    /// Sequences per step.
    #[serde(default)]
    pub batch: usize,
    /// Tokens per sequence.
    #[serde(default)]
    pub length: usize,
    /// Peak learning rate.
    pub rate: f64,
    /// Steps of linear warm-up; afterwards the learning rate follows a cosine down to a tenth of the peak.
    #[serde(default)]
    pub warmup: usize,
    /// Weight decay of matrices; vectors have none.
    #[serde(default)]
    pub weight_decay: f32,
    /// Maximum norm of the gradient of a parameter (gradient clipping).
    #[serde(default = "clip")]
    pub clip: f32,
    /// Parameter groups with their own learning rate.
    #[serde(default)]
    pub groups: Vec<Group>,
    /// Splits sequences into segments, so that memory does not grow with their length (truncated BPTT); whole sequences if `None`.
    pub segments: Option<SegmentsOf>,
    /// Number of steps between checkpoints.
    #[serde(default = "every")]
    pub checkpoint_every: usize,
}

/// Segments of a sequence, for backpropagation through time.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentsOf {
    /// Tokens per segment; the last may be shorter.
    pub length: usize,
    /// Extent of backpropagation.
    pub through: Flow,
}

/// Extent of backpropagation through time.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Flow {
    /// To the start of the sequence; every segment is computed twice (checkpointing).
    All,
    /// To the start of the segment (truncated BPTT, as in Transformer-XL).
    Segment,
}

/// A parameter group with its own learning rate.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Suffix of the parameter names in the checkpoint.
    pub ends: String,
    /// Factor of the learning rate, at least 0.
    pub factor: f64,
}

fn clip() -> f32 {
    1.0
}

fn every() -> usize {
    500
}

impl Config {
    /// Reads and checks a TOML file; the error names the file and the field.
    pub fn read(file: &Path) -> Result<Self, Error> {
        let wrong = |message: String| Error::Config { file: file.display().to_string(), message };
        let mut config: Config = read(file)?;
        let base = file.parent().unwrap_or(Path::new(""));
        config.output = base.join(&config.output);
        config.tokenizer.file = config.tokenizer.file.map(|f| base.join(f));
        for source in &mut config.data.sources {
            let path = expand(&source.path).map_err(&wrong)?;
            source.path = base.join(path).display().to_string();
        }
        let o = &config.optimiser;
        for (name, value) in [("steps", o.steps), ("batch", o.batch), ("length", o.length)] {
            if value == 0 {
                return Err(wrong(format!("`optimiser.{name}`: want at least 1, found 0")));
            }
        }
        if !(0.0..1.0).contains(&config.data.held_out) {
            return Err(wrong(format!("`data.held_out`: want at least 0 and below 1, found {}", config.data.held_out)));
        }
        if config.tokenizer.file.is_some() == config.tokenizer.vocabulary.is_some() {
            return Err(wrong("`tokenizer`: want either `file` or `vocabulary`".into()));
        }
        Ok(config)
    }
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
