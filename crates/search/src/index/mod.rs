//! Passages with their vectors on disk, and exact search in them.
//!
//! An index is a folder: `index.json` says what made it, `passages.arrow` holds the passages, an Arrow file that other tools read as it is, with the columns
//! `row`, `file`, `start`, `end`, `tokens`, `text` and `vector`, or `vectors` where there is one a token. It is mapped, not read: an index may be larger than
//! memory.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt64Type};
use arrow_array::{Array, RecordBatch};
use arrow_buffer::Buffer;
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::reader::{FileDecoder, read_footer_length};
use arrow_ipc::{Block, root_as_footer};
use bytes::Bytes;
use longreach_engine::{Prompt, TextEncoder};
use longreach_simd::Cx;
use longreach_simd::file::Mapped;
use longreach_simd::norm::Rows;
use longreach_simd::product::{Weights, linear};
use serde::{Deserialize, Serialize};

use crate::documents::Input;
use crate::job::{self, Job, LongDocument, Progress};
use crate::vectors::{Format, assemble};
use crate::{Error, matches};

/// What made an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The format's version.
    pub version: u32,
    /// The model, as it was asked for.
    pub model: String,
    /// Whether there is a vector a token.
    pub late: bool,
    /// How many numbers a vector has.
    pub width: usize,
    /// Whether vectors are of length 1.
    pub normalized: bool,
    /// What was indexed.
    pub input: String,
    /// How many passages there are.
    pub passages: u64,
}

const VERSION: u32 = 1;
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

/// Indexes documents. The encoder's limit is set to the passages' length.
pub fn build(
    encoder: &mut TextEncoder,
    input: &Input,
    column: Option<&str>,
    passages: Passages,
    to: &Path,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Progress, Error> {
    if to.exists() {
        return Err(Error::file(
            to,
            "is there already: an index is not written over; choose another name or remove it",
        ));
    }
    let tokens = passages.tokens.min(encoder.limit());
    encoder.set_limit(tokens)?;
    let prompt = encoder.prompt(Prompt::Document)?.to_owned();
    let long = LongDocument::Parts { overlap: passages.overlap };
    let job = Job { input, column, prompt: &prompt, long, keep: None, batch: passages.batch, text: true };
    let folder = job::partial(to);
    let (shards, done) = job.pieces(encoder, &folder, progress)?;
    let columns = crate::table::Columns { width: encoder.width(), late: encoder.is_late(), text: true };
    let whole = folder.join("whole");
    std::fs::create_dir_all(&whole).map_err(|e| Error::io(&whole, e))?;
    assemble(&whole.join(PASSAGES), Format::Arrow, &columns.schema(), &shards)?;
    let about = About {
        version: VERSION,
        model: encoder.name.clone(),
        late: encoder.is_late(),
        width: encoder.width(),
        normalized: encoder.pipeline.normalizes() || encoder.is_late(),
        input: input.name(),
        passages: done.rows,
    };
    let text = serde_json::to_vec_pretty(&about).unwrap_or_default();
    let file = whole.join(ABOUT);
    longreach_models::write_atomically(&file, |out| out.write_all(&text)).map_err(|e| Error::Engine(e.into()))?;
    std::fs::rename(&whole, to).map_err(|e| Error::io(to, e))?;
    std::fs::remove_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    Ok(done)
}

/// An index, mapped.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    about: About,
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
}

impl Index {
    /// Opens an index.
    pub fn open(path: &Path) -> Result<Self, Error> {
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
        let text = std::fs::read(&file).map_err(|e| Error::io(&file, e))?;
        let about: About = serde_json::from_slice(&text).map_err(|e| Error::file(&file, format!("damaged: {e}")))?;
        if about.version != VERSION {
            let message = format!("version {}, this program reads version {VERSION}", about.version);
            return Err(Error::file(&file, message));
        }
        let file = path.join(PASSAGES);
        let batches = map(&file)?;
        let rows: u64 = batches.iter().map(|b| b.num_rows() as u64).sum();
        if rows != about.passages {
            let message = format!("has {rows} passages, {ABOUT} says {}", about.passages);
            return Err(Error::file(&file, message));
        }
        let columns = crate::table::Columns { width: about.width, late: about.late, text: true };
        if let Some(batch) = batches.iter().find(|batch| batch.schema() != columns.schema()) {
            let message = format!("its columns are {}, want {}", batch.schema(), columns.schema());
            return Err(Error::file(&file, message));
        }
        Ok(Self { path: path.to_owned(), about, batches })
    }

    /// What made it.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// The `n` passages that match a query best, the best first.
    pub fn search(&self, cx: &Cx, encoder: &TextEncoder, query: &str, n: usize) -> Result<Vec<Found>, Error> {
        if encoder.is_late() != self.about.late || encoder.width() != self.about.width {
            let kind = |late: bool, width: usize| {
                let each = if late { "token" } else { "text" };
                format!("a vector of {width} numbers a {each}")
            };
            let message = format!(
                "holds {}, the model makes {}",
                kind(self.about.late, self.about.width),
                kind(encoder.is_late(), encoder.width())
            );
            return Err(Error::file(&self.path, message));
        }
        let query = if encoder.is_late() {
            encoder.late_query(query)?
        } else {
            encoder.embed(&[query], Prompt::Query)?.concat()
        };
        Ok(self.best(cx, &query, n))
    }

    /// The `n` passages whose vectors match best.
    pub fn best(&self, cx: &Cx, query: &[f32], n: usize) -> Vec<Found> {
        let mut best: Vec<(f32, usize, usize)> = Vec::new();
        for (b, batch) in self.batches.iter().enumerate() {
            let scores = self.scores(cx, query, batch);
            best.extend(scores.into_iter().enumerate().map(|(i, score)| (score, b, i)));
            best.sort_by(|x, y| y.0.total_cmp(&x.0).then((x.1, x.2).cmp(&(y.1, y.2))));
            best.truncate(n);
        }
        best.into_iter().map(|(score, b, i)| found(&self.batches[b], i, score)).collect()
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
        linear(cx, Rows::contiguous(query, width), Weights::F32(numbers), None, &mut scores);
        if self.about.normalized {
            return scores;
        }
        // Cosines of vectors that are not of length 1.
        let length = |x: &[f32]| x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt().max(1e-12);
        let own = length(query);
        for (score, vector) in scores.iter_mut().zip(numbers.chunks_exact(width)) {
            *score = (f64::from(*score) / (own * length(vector))) as f32;
        }
        scores
    }
}

fn found(batch: &RecordBatch, i: usize, score: f32) -> Found {
    let column = |name: &str| batch.column_by_name(name).expect("the schema was checked");
    let number = |name: &str| column(name).as_primitive::<UInt64Type>().value(i);
    let file = column("file").as_string::<i32>();
    Found {
        score,
        row: number("row"),
        file: (!file.is_null(i)).then(|| file.value(i).to_owned()),
        bytes: number("start")..number("end"),
        text: column("text").as_string::<i32>().value(i).to_owned(),
    }
}

/// The batches of an Arrow file, whose numbers lie in its mapping.
fn map(path: &Path) -> Result<Vec<RecordBatch>, Error> {
    let wrong = |e: &dyn std::fmt::Display| Error::file(path, format!("damaged: {e}"));
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    let mapped = Mapped::new(&file).map_err(|e| Error::io(path, e))?;
    let buffer = Buffer::from(Bytes::from_owner(mapped));
    let length = buffer.len();
    let tail: Option<[u8; 10]> = buffer.get(length.saturating_sub(10)..).and_then(|tail| tail.try_into().ok());
    let tail = tail.ok_or_else(|| wrong(&"it is cut short"))?;
    let footer = read_footer_length(tail).map_err(|e| wrong(&e))?;
    let from = length.checked_sub(10 + footer).ok_or_else(|| wrong(&"it is cut short"))?;
    let footer = root_as_footer(&buffer[from..length - 10]).map_err(|e| wrong(&e))?;
    let schema = footer.schema().ok_or_else(|| wrong(&"it has no schema"))?;
    let schema = try_fb_to_schema(schema).map_err(|e| wrong(&e))?;
    let decoder = FileDecoder::new(Arc::new(schema), footer.version());
    let part = |block: &Block| {
        let (from, n) = (usize::try_from(block.offset()), usize::try_from(block.bodyLength()));
        let head = usize::try_from(block.metaDataLength());
        let (Ok(from), Ok(n), Ok(head)) = (from, n, head) else { return Err(wrong(&"a part without a place")) };
        let end = head.checked_add(n).and_then(|n| n.checked_add(from)).filter(|end| *end <= from.max(length));
        match end {
            Some(end) if end <= length => Ok(buffer.slice_with_length(from, end - from)),
            _ => Err(wrong(&"it is cut short")),
        }
    };
    let mut batches = Vec::new();
    for block in footer.recordBatches().into_iter().flatten() {
        let batch = decoder.read_record_batch(block, &part(block)?).map_err(|e| wrong(&e))?;
        batches.extend(batch);
    }
    Ok(batches)
}
