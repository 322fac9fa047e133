//! An index of passages and their vectors on disk, with exact search.
//!
//! An index is a folder. `index.json` describes how it was built. `passages.arrow` is an ordinary Arrow file with the columns `row`, `file`, `start`, `end`,
//! `tokens`, `text`, the fields copied from the documents, and `vector`, or `vectors` if there is one vector per token. It is memory-mapped, so an index may be
//! larger than memory.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt64Type};
use arrow_array::{Array, RecordBatch};
use longreach_engine::{Prompt, Similarity, TextEncoder};
use longreach_simd::Cx;
use longreach_simd::norm::Rows;
use longreach_simd::product::{Weights, linear};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::documents::{Input, Kind, Options};
use crate::ipc::Table;
use crate::job::{self, Blank, Job, LongDocument, Progress};
use crate::output::{Existing, check_index};
use crate::table::{Columns, check_fields, checksum};
use crate::vectors::{Format, assemble};
use crate::{Error, matches};

mod questions;

pub use questions::Questions;

/// The description of an index, as stored in `index.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Version of the format.
    pub version: u32,
    /// Name of the model, as given when the index was built.
    pub model: String,
    /// Hash of its configuration, weights and tokenizer ([`TextEncoder::fingerprint`]).
    pub fingerprint: String,
    /// The other settings that the vectors depend on ([`TextEncoder::settings`]).
    pub settings: Value,
    /// Whether there is one vector per token (late interaction) rather than one per passage.
    pub late: bool,
    /// Number of dimensions of a vector.
    pub width: usize,
    /// Whether the vectors have unit length.
    pub normalized: bool,
    /// Name of the similarity; `None` for late interaction.
    pub similarity: Option<String>,
    /// Name of the input.
    pub input: String,
    /// Format of the input, if one was given.
    pub format: Option<String>,
    /// Fields copied from the documents.
    pub fields: Vec<String>,
    /// Number of passages.
    pub passages: u64,
    /// Hash of each record batch.
    pub checksums: Vec<String>,
}

const VERSION: u32 = 2;
const ABOUT: &str = "index.json";
const PASSAGES: &str = "passages.arrow";

/// How documents are split into passages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passages {
    /// Longest passage in tokens.
    pub tokens: usize,
    /// Overlap of consecutive passages, in tokens.
    pub overlap: usize,
    /// Size of a packed batch in tokens.
    pub batch: usize,
}

/// The arguments of [`build`].
#[derive(Debug)]
pub struct Build<'a> {
    /// The documents.
    pub input: &'a Input,
    /// How the documents are read.
    pub options: &'a Options,
    /// How the documents are split.
    pub passages: Passages,
    /// Similarity of vectors; that of the model if `None`, or else cosine.
    pub similarity: Option<Similarity>,
    /// What to do if the index already exists.
    pub existing: Existing,
}

/// Builds the index `to`, skipping blank documents, and lowers the input limit of the encoder to the passage length. An existing index stays in place until
/// the new one is complete. `progress` may stop the job, which the same call then resumes.
pub fn build(
    encoder: &mut TextEncoder,
    what: &Build<'_>,
    to: &Path,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Progress, Error> {
    check_index(to, what.input, what.existing)?;
    if let Some(name) = what.options.fields.iter().find(|name| ["number", "query", "score"].contains(&name.as_str())) {
        return Err(Error::Fields(format!(
            "field `{name}` cannot be copied: search results have a field of that name"
        )));
    }
    let settings = encoder.settings();
    let similarity = similarity(encoder, &settings, what.similarity)?;
    encoder.set_limit(what.passages.tokens.min(encoder.limit()))?;
    let prompt = encoder.prompt(Prompt::Document)?.to_owned();
    let job = Job {
        input: what.input,
        options: what.options,
        prompt: &prompt,
        long: LongDocument::Parts { overlap: what.passages.overlap },
        blank: Blank::LeaveOut,
        keep: None,
        batch: what.passages.batch,
        text: true,
    };
    let folder = job::partial(to);
    let (pieces, done) = job.pieces(encoder, to, progress)?;
    let remove = || std::fs::remove_dir_all(&folder).map_err(|e| Error::io(&folder, e));
    if done.rows == 0 {
        remove()?;
        let message = format!("holds no text: its {} documents are blank", done.documents);
        return Err(Error::file(Path::new(&what.input.name()), message));
    }
    let whole = folder.join("whole");
    std::fs::create_dir_all(&whole).map_err(|e| Error::io(&whole, e))?;
    let paths: Vec<PathBuf> = pieces.iter().map(|piece| piece.path.clone()).collect();
    assemble(&whole.join(PASSAGES), Format::Arrow, &job.columns(encoder).schema(), &paths)?;
    let about = About {
        version: VERSION,
        model: encoder.name.clone(),
        fingerprint: encoder.fingerprint(),
        settings,
        late: encoder.is_late(),
        width: encoder.width(),
        normalized: encoder.pipeline.normalizes() || encoder.is_late(),
        similarity: similarity.map(|similarity| similarity.name().to_owned()),
        input: what.input.name(),
        format: what.options.format.map(|kind| kind.name().to_owned()),
        fields: what.options.fields.clone(),
        passages: done.rows,
        checksums: pieces.into_iter().map(|piece| piece.checksum).collect(),
    };
    let text = serde_json::to_vec_pretty(&about).unwrap_or_default();
    let file = whole.join(ABOUT);
    longreach_models::write_atomically(&file, |out| out.write_all(&text)).map_err(|e| Error::Engine(e.into()))?;
    // The old index stays in place until the new one is complete.
    let replaced = folder.join("replaced");
    if to.exists() {
        std::fs::rename(to, &replaced).map_err(|e| Error::io(to, e))?;
    }
    std::fs::rename(&whole, to).map_err(|e| {
        let _ = std::fs::rename(&replaced, to);
        Error::io(to, e)
    })?;
    remove()?;
    Ok(done)
}

/// The similarity of an index: the requested one, that of the model, or cosine; `None` for late interaction.
fn similarity(encoder: &TextEncoder, settings: &Value, asked: Option<Similarity>) -> Result<Option<Similarity>, Error> {
    let wrong = |message: String| Error::file(Path::new(&encoder.name), message);
    match (encoder.is_late(), asked, settings["similarity"].as_str()) {
        (true, None, _) => Ok(None),
        (true, Some(asked), _) => Err(wrong(format!(
            "similarity `{}`: late-interaction models are compared by their best matches (MaxSim) only",
            asked.name()
        ))),
        (false, Some(asked), _) => Ok(Some(asked)),
        (false, None, Some(name)) => {
            let known =
                name.parse().map_err(|e| wrong(format!("the model's similarity: {e}; name one with --similarity")));
            known.map(Some)
        }
        (false, None, None) => Ok(Some(Similarity::Cosine)),
    }
}

/// A memory-mapped index.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    about: About,
    similarity: Option<Similarity>,
    batches: Vec<RecordBatch>,
}

/// A search result.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Similarity to the query; higher is better.
    pub score: f32,
    /// Number of its document, counted from 0.
    pub row: u64,
    /// File of the document; `None` for standard input.
    pub file: Option<String>,
    /// Byte range in the file, or in the text of the row of a table.
    pub bytes: std::ops::Range<u64>,
    /// Text of the passage.
    pub text: String,
    /// Fields of its document, in the order of [`About::fields`].
    pub fields: Vec<Option<String>>,
}

impl Index {
    /// Opens an index and verifies its checksums. O(bytes of the index) time.
    pub fn open(cx: &Cx, path: &Path) -> Result<Self, Error> {
        let file = path.join(ABOUT);
        if !file.exists() {
            let begun = job::partial(path);
            let message = if begun.exists() {
                format!("is not finished: run the command that built it again to resume from {}", begun.display())
            } else {
                format!("is not an index: it has no {ABOUT}")
            };
            return Err(Error::file(path, message));
        }
        let about = about(&file)?;
        let wrong = |message: String| Error::file(&file, format!("damaged: {message}"));
        let similarity = about.similarity.as_deref().map(str::parse).transpose();
        let similarity: Option<Similarity> = similarity.map_err(|e| wrong(format!("field `similarity`: {e}")))?;
        if similarity.is_none() != about.late {
            return Err(wrong("fields `late` and `similarity` contradict each other".into()));
        }
        let table = path.join(PASSAGES);
        let columns = Columns { width: about.width, late: about.late, text: true, fields: about.fields.clone() };
        let batches = Table::open(&table)?.batches(&columns.schema())?.collect::<Result<Vec<_>, _>>()?;
        let index = Self { path: path.to_owned(), about, similarity, batches };
        index.check(cx).map_err(|message| Error::file(&table, message))?;
        Ok(index)
    }

    /// Checks the passages against the description.
    fn check(&self, cx: &Cx) -> Result<(), String> {
        let rows: u64 = self.batches.iter().map(|b| b.num_rows() as u64).sum();
        if rows != self.about.passages {
            return Err(format!("has {rows} passages, but {ABOUT} says {}", self.about.passages));
        }
        if self.batches.len() != self.about.checksums.len() {
            let n = self.about.checksums.len();
            return Err(format!("has {} record batches, but {ABOUT} says {n}", self.batches.len()));
        }
        let mut same = vec![false; self.batches.len()];
        cx.team.for_each(
            same.iter_mut().zip(self.batches.iter().zip(&self.about.checksums)),
            |(same, (batch, sum))| {
                *same = checksum(batch) == *sum;
            },
        );
        match same.iter().position(|same| !same) {
            Some(i) => Err(format!("damaged: the checksum of record batch {i} does not match")),
            None => Ok(()),
        }
    }

    /// How it was built.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// The position of a passage, for display: file and row, or file and byte range.
    pub fn place(&self, found: &Found) -> String {
        let Some(file) = &found.file else { return format!("row {}", found.row) };
        let said = self.about.format.as_deref().and_then(|name| name.parse::<Kind>().ok());
        if said.or_else(|| Kind::of_name(Path::new(file)).ok().flatten()).is_some_and(Kind::is_table) {
            return format!("{file}, row {}", found.row);
        }
        format!("{file}, bytes {} to {}", found.bytes.start, found.bytes.end)
    }

    /// The `n` passages most similar to a query vector, best first; for late interaction, `query` holds the vectors of its tokens. O(index) time.
    pub fn best(&self, cx: &Cx, query: &[f32], n: usize) -> Vec<Found> {
        let mut best: Vec<(f32, usize, usize)> = Vec::new();
        for (b, batch) in self.batches.iter().enumerate() {
            let scores = self.scores(cx, query, batch);
            // NaN, and the −∞ of a passage without a vector, are not matches.
            let scores = scores.into_iter().enumerate().filter(|(_, score)| score.is_finite());
            best.extend(scores.map(|(i, score)| (score, b, i)));
            best.sort_by(|x, y| y.0.total_cmp(&x.0).then((x.1, x.2).cmp(&(y.1, y.2))));
            best.truncate(n);
        }
        best.into_iter().map(|(score, b, i)| found(&self.batches[b], &self.about.fields, i, score)).collect()
    }

    fn scores(&self, cx: &Cx, query: &[f32], batch: &RecordBatch) -> Vec<f32> {
        let width = self.about.width;
        if self.about.late {
            let list = batch.column_by_name("vectors").expect("the schema was checked").as_list::<i64>();
            let numbers = list.values().as_fixed_size_list().values().as_primitive::<Float32Type>().values();
            let bounds: Vec<usize> = list.value_offsets().iter().map(|at| *at as usize).collect();
            return matches::scores(cx, query, width, numbers, &bounds);
        }
        let list = batch.column_by_name("vector").expect("the schema was checked").as_fixed_size_list();
        let numbers = list.values().as_primitive::<Float32Type>().values();
        let mut scores = vec![0.0; batch.num_rows()];
        let similarity = self.similarity.unwrap_or(Similarity::Cosine);
        if similarity == Similarity::Dot || (similarity == Similarity::Cosine && self.about.normalized) {
            linear(cx, Rows::contiguous(query, width), Weights::F32(numbers), None, &mut scores);
            return scores;
        }
        let parts = scores.chunks_mut(PART).zip(numbers.chunks(PART * width));
        cx.team.for_each(parts, |(scores, numbers)| {
            for (score, vector) in scores.iter_mut().zip(numbers.chunks_exact(width)) {
                *score = similarity.score(query, vector);
            }
        });
        scores
    }
}

/// Passages per task.
const PART: usize = 256;

/// Reads `index.json`.
fn about(file: &Path) -> Result<About, Error> {
    let damaged = |message: String| Error::file(file, format!("damaged: {message}"));
    let text = std::fs::read(file).map_err(|e| Error::io(file, e))?;
    let fields: Value = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
    if fields["version"].as_u64() != Some(u64::from(VERSION)) {
        let message =
            format!("version {}, but this program reads version {VERSION}: build the index again", fields["version"]);
        return Err(Error::file(file, message));
    }
    let about: About = serde_json::from_value(fields).map_err(|e| damaged(e.to_string()))?;
    if i32::try_from(about.width).is_err() || about.width == 0 {
        return Err(damaged(format!("field `width`: {}", about.width)));
    }
    check_fields(&about.fields).map_err(|e| damaged(e.to_string()))?;
    Ok(about)
}

fn found(batch: &RecordBatch, fields: &[String], i: usize, score: f32) -> Found {
    let column = |name: &str| batch.column_by_name(name).expect("the schema was checked");
    let number = |name: &str| column(name).as_primitive::<UInt64Type>().value(i);
    let text = |name: &str| {
        let texts = column(name).as_string::<i32>();
        (!texts.is_null(i)).then(|| texts.value(i).to_owned())
    };
    Found {
        score,
        row: number("row"),
        file: text("file"),
        bytes: number("start")..number("end"),
        text: text("text").unwrap_or_default(),
        fields: fields.iter().map(|name| text(name)).collect(),
    }
}
