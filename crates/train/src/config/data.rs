//! The table `data`: sources, their columns, and what is held out.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The training data.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Files and directories to read.
    pub sources: Vec<Source>,
    /// What is evaluated on and never trained on.
    #[serde(default)]
    pub held_out: HeldOut,
    /// The format of the sources.
    #[serde(default)]
    pub format: Format,
    /// Whether rows of tables are read while they are learnt, in blocks that are shuffled, so that memory does not grow with the
    /// files; otherwise all are read before.
    #[serde(default)]
    pub stream: bool,
    /// The number of streamed rows that are shuffled together.
    #[serde(default = "shuffle")]
    pub shuffle: usize,
    /// How texts of different lengths are read at once.
    #[serde(default)]
    pub packing: Packing,
    /// The names of the columns of tables, by what they hold: `text`, `pair`, `label`, `labels`, `tokens`, `tags`, `question`, `context`, `answer`, `anchor`,
    /// `positive`, `negative`, `prompt`, `completion` or `messages`. A column that is not listed has the name of what it holds.
    #[serde(default)]
    pub columns: BTreeMap<String, String>,
}

/// The format of the sources.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Texts, which are read as `.html`, `.md` and `.txt` files, cut into windows of one length: pre-training. For objectives that need a label, one file for
    /// each text, in a directory that is named as its label.
    #[default]
    Text,
    /// Rows of `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` files, recognised by their names.
    Table,
    /// Token ids, as nanoGPT and llm.c write them: integers of 16 bits in `.bin` or `.u16` files, of 32 bits in `.u32` files, least significant byte first.
    Tokens,
}

/// How the texts of a step are read at once by a language model, where their lengths differ. Encoders always read them packed.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// One behind the other in one row: attention, states, convolutions and positions begin anew with each, and no token is
    /// padding.
    #[default]
    Packed,
    /// A row each, of the length of the longest.
    Padded,
}

/// What is held out.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub enum HeldOut {
    /// This fraction of the pages or rows, at least 0 and below 1; they are chosen by a hash of their names or texts.
    Part(f64),
    /// A file or directory of the same format.
    Path {
        /// The file or directory.
        path: String,
    },
}

impl Default for HeldOut {
    fn default() -> Self {
        HeldOut::Part(0.05)
    }
}

impl HeldOut {
    /// Whether it chooses a row of this hash.
    pub(crate) fn chooses(&self, hash: u64) -> bool {
        (hash % 10_000) as f64 / 10_000.0 < self.part()
    }

    /// The fraction that is chosen by a hash; 0 if the held-out data are files of their own.
    pub fn part(&self) -> f64 {
        match self {
            HeldOut::Part(part) => *part,
            HeldOut::Path { .. } => 0.0,
        }
    }
}

/// A file or a directory tree. HTML is converted to text.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The file or directory.
    pub path: String,
    /// The share of the rows of a step that come from this source, relative to the other sources. If no source has one, all rows are drawn alike, or
    /// read one source after the other where they are streamed.
    pub weight: Option<f64>,
    /// CSS selector of the elements of an HTML page that hold its text.
    #[serde(default = "body")]
    pub select: String,
    /// CSS selector of elements inside those to drop, such as `pre` to keep only prose.
    pub drop: Option<String>,
    /// Files whose path contains one of these strings are skipped.
    #[serde(default)]
    pub exclude: Vec<String>,
}

fn shuffle() -> usize {
    4096
}

fn body() -> String {
    "body".into()
}

/// The tokenizer of a model that starts from random weights: an existing file, or the vocabulary size of a byte-level BPE to train.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokenizer {
    /// Path of a `tokenizer.json`.
    pub file: Option<std::path::PathBuf>,
    /// Vocabulary size of the tokenizer to train.
    pub vocabulary: Option<usize>,
}
