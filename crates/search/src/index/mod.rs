//! Passages with their vectors on disk, and exact search in them.
//!
//! An index is a folder: `index.json` says what made it, `passages.arrow` holds the passages, an Arrow file that other tools read as it is, with the columns
//! `row`, `file`, `start`, `end`, `tokens`, `text`, those that were carried from the documents, and `vector`, or `vectors` where there is one a token. It is mapped, not read: an index may be larger than
//! memory.

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

/// What made an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The format's version.
    pub version: u32,
    /// The model, as it was asked for.
    pub model: String,
    /// Its configuration, weights and tokenizer, as a hash ([`TextEncoder::fingerprint`]).
    pub fingerprint: String,
    /// What its vectors depend on besides ([`TextEncoder::settings`]).
    pub settings: Value,
    /// Whether there is a vector a token.
    pub late: bool,
    /// How many numbers a vector has.
    pub width: usize,
    /// Whether vectors are of length 1.
    pub normalized: bool,
    /// How vectors are compared, by name; nothing where there is one a token.
    pub similarity: Option<String>,
    /// What was indexed.
    pub input: String,
    /// The format it was said to be in.
    pub format: Option<String>,
    /// The columns that were carried from it.
    pub fields: Vec<String>,
    /// How many passages there are.
    pub passages: u64,
    /// A hash of each batch of them.
    pub checksums: Vec<String>,
}

const VERSION: u32 = 2;
const ABOUT: &str = "index.json";
const PASSAGES: &str = "passages.arrow";

/// How documents become passages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passages {
    /// The most tokens of a passage.
    pub tokens: usize,
    /// Those it shares with the one before.
    pub overlap: usize,
    /// Tokens of a batch.
    pub batch: usize,
}

/// What is indexed, and how.
#[derive(Debug)]
pub struct Build<'a> {
    /// The documents.
    pub input: &'a Input,
    /// How they are read.
    pub options: &'a Options,
    /// How they become passages.
    pub passages: Passages,
    /// How vectors are compared; what the model says, or else by their cosine, if absent.
    pub similarity: Option<Similarity>,
    /// What becomes of an index that is there already.
    pub existing: Existing,
}

/// Indexes documents; blank ones are left out. The encoder's limit is set to the passages' length.
pub fn build(
    encoder: &mut TextEncoder,
    what: &Build<'_>,
    to: &Path,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Progress, Error> {
    check_index(to, what.input, what.existing)?;
    if let Some(name) = what.options.fields.iter().find(|name| ["number", "query", "score"].contains(&name.as_str())) {
        return Err(Error::Fields(format!("field `{name}` cannot be carried: a match has a field of that name")));
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
    // The index that is replaced is there until the new one is.
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

/// How an index compares vectors: as was asked, or as the model says, or by their cosine.
fn similarity(encoder: &TextEncoder, settings: &Value, asked: Option<Similarity>) -> Result<Option<Similarity>, Error> {
    let wrong = |message: String| Error::file(Path::new(&encoder.name), message);
    match (encoder.is_late(), asked, settings["similarity"].as_str()) {
        (true, None, _) => Ok(None),
        (true, Some(asked), _) => Err(wrong(format!(
            "similarity `{}`: a model with a vector a token is compared by its best matches only",
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

/// An index, mapped.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    about: About,
    similarity: Option<Similarity>,
    batches: Vec<RecordBatch>,
}

/// A passage that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// How well it matches.
    pub score: f32,
    /// The number of its document.
    pub row: u64,
    /// The file it is from.
    pub file: Option<String>,
    /// Where in the file it is, in bytes.
    pub bytes: std::ops::Range<u64>,
    /// The passage.
    pub text: String,
    /// What was carried from its document, in the order of [`About::fields`].
    pub fields: Vec<Option<String>>,
}

impl Index {
    /// Opens an index, and checks that it is what was written.
    pub fn open(cx: &Cx, path: &Path) -> Result<Self, Error> {
        let file = path.join(ABOUT);
        if !file.exists() {
            let begun = job::partial(path);
            let message = if begun.exists() {
                format!("is not finished: {} holds its beginning; the command that built it goes on", begun.display())
            } else {
                format!("is no index: there is no {ABOUT} in it")
            };
            return Err(Error::file(path, message));
        }
        let about = about(&file)?;
        let wrong = |message: String| Error::file(&file, format!("damaged: {message}"));
        let similarity = about.similarity.as_deref().map(str::parse).transpose();
        let similarity: Option<Similarity> = similarity.map_err(|e| wrong(format!("field `similarity`: {e}")))?;
        if similarity.is_none() != about.late {
            return Err(wrong("fields `late` and `similarity` do not go together".into()));
        }
        let table = path.join(PASSAGES);
        let columns = Columns { width: about.width, late: about.late, text: true, fields: about.fields.clone() };
        let batches = Table::open(&table)?.batches(&columns.schema())?.collect::<Result<Vec<_>, _>>()?;
        let index = Self { path: path.to_owned(), about, similarity, batches };
        index.check(cx).map_err(|message| Error::file(&table, message))?;
        Ok(index)
    }

    /// Whether the passages are those that the description is of.
    fn check(&self, cx: &Cx) -> Result<(), String> {
        let rows: u64 = self.batches.iter().map(|b| b.num_rows() as u64).sum();
        if rows != self.about.passages {
            return Err(format!("has {rows} passages, {ABOUT} says {}", self.about.passages));
        }
        if self.batches.len() != self.about.checksums.len() {
            let n = self.about.checksums.len();
            return Err(format!("has {} batches of passages, {ABOUT} says {n}", self.batches.len()));
        }
        let mut same = vec![false; self.batches.len()];
        cx.team.for_each(
            same.iter_mut().zip(self.batches.iter().zip(&self.about.checksums)),
            |(same, (batch, sum))| {
                *same = checksum(batch) == *sum;
            },
        );
        match same.iter().position(|same| !same) {
            Some(i) => Err(format!("damaged: batch {i} of its passages is not what was written")),
            None => Ok(()),
        }
    }

    /// What made it.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Where a passage is, in words.
    pub fn place(&self, found: &Found) -> String {
        let Some(file) = &found.file else { return format!("row {}", found.row) };
        let said = self.about.format.as_deref().and_then(|name| name.parse::<Kind>().ok());
        if said.or_else(|| Kind::of_name(Path::new(file)).ok().flatten()).is_some_and(Kind::is_table) {
            return format!("{file}, row {}", found.row);
        }
        format!("{file}, bytes {} to {}", found.bytes.start, found.bytes.end)
    }

    /// The `n` passages whose vectors match best.
    pub fn best(&self, cx: &Cx, query: &[f32], n: usize) -> Vec<Found> {
        let mut best: Vec<(f32, usize, usize)> = Vec::new();
        for (b, batch) in self.batches.iter().enumerate() {
            let scores = self.scores(cx, query, batch);
            // A score that is no number, or that of a passage without a vector, is no match.
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

/// Passages that a thread compares at a time.
const PART: usize = 256;

/// What an index says of itself.
fn about(file: &Path) -> Result<About, Error> {
    let damaged = |message: String| Error::file(file, format!("damaged: {message}"));
    let text = std::fs::read(file).map_err(|e| Error::io(file, e))?;
    let fields: Value = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
    if fields["version"].as_u64() != Some(u64::from(VERSION)) {
        let message =
            format!("version {}, this program reads version {VERSION}: build the index again", fields["version"]);
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
