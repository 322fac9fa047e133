//! What a training is, as a TOML file says it.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// A whole training. Paths are relative to the file; `$NAME` in a path is the environment's.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where checkpoints, the curve and the result are written.
    pub output: PathBuf,
    /// Seed of all that is drawn at random.
    #[serde(default)]
    pub seed: u64,
    /// The text.
    pub data: Data,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The model: the fields of a `config.json`.
    pub model: toml::Table,
    /// The optimiser and the loop.
    pub optimiser: Optimiser,
}

/// The text to learn from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Where it is.
    pub sources: Vec<Source>,
    /// The part of the pages held out to measure on, chosen by a hash of their names.
    #[serde(default = "held_out")]
    pub held_out: f64,
}

fn held_out() -> f64 {
    0.05
}

/// A file or a tree of files: `.html` is stripped, `.md` and `.txt` read as they are.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The file or directory.
    pub path: String,
    /// Which elements of an HTML page are its text (CSS selector).
    #[serde(default = "body")]
    pub select: String,
    /// Which elements inside those are left out (CSS selector), such as `pre` where only prose is wanted.
    pub drop: Option<String>,
    /// Parts of paths to leave out.
    #[serde(default)]
    pub exclude: Vec<String>,
}

fn body() -> String {
    "body".into()
}

/// The tokenizer: one that exists, or the size of a byte-level BPE to train.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokenizer {
    /// A `tokenizer.json`.
    pub file: Option<PathBuf>,
    /// Size of the vocabulary to train.
    pub vocabulary: Option<usize>,
}

/// The optimiser (AdamW, Loshchilov and Hutter 2019) and the loop.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimiser {
    /// Steps in all.
    pub steps: usize,
    /// Sequences in a step.
    #[serde(default)]
    pub batch: usize,
    /// Tokens in a sequence.
    #[serde(default)]
    pub length: usize,
    /// The highest learning rate.
    pub rate: f64,
    /// Steps over which it rises from zero; afterwards it falls by a cosine to a tenth.
    #[serde(default)]
    pub warmup: usize,
    /// Decay of matrices.
    #[serde(default)]
    pub weight_decay: f32,
    /// Largest norm of a parameter's gradient.
    #[serde(default = "clip")]
    pub clip: f32,
    /// Parameters that learn at another rate.
    #[serde(default)]
    pub groups: Vec<Group>,
    /// Segments in which a sequence is read, so that memory does not grow with its length; at once if absent.
    pub segments: Option<SegmentsOf>,
    /// Steps between checkpoints.
    #[serde(default = "every")]
    pub checkpoint_every: usize,
}

/// In which segments a sequence is read.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentsOf {
    /// Tokens of one; the last may be shorter.
    pub length: usize,
    /// How far gradients flow.
    pub through: Flow,
}

/// How far gradients flow.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Flow {
    /// To the beginning of the sequence: every segment is read twice.
    All,
    /// To the beginning of their segment, as Transformer-XL was published.
    Segment,
}

/// Parameters that learn at another rate than the rest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// How their names in the checkpoint end.
    pub ends: String,
    /// Times which the rate is taken.
    pub factor: f64,
}

fn clip() -> f32 {
    1.0
}

fn every() -> usize {
    500
}

impl Config {
    /// Reads a file.
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
            return Err(wrong(format!("`data.held_out`: want 0 up to 1, found {}", config.data.held_out)));
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

/// Replaces `$NAME` by the environment's value.
fn expand(path: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = path;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let name: String = rest[at + 1..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        out.push_str(&std::env::var(&name).map_err(|_| format!("`{path}`: the environment has no `{name}`"))?);
        rest = &rest[at + 1 + name.len()..];
    }
    out.push_str(rest);
    Ok(out)
}
