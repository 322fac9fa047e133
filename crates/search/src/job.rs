//! Embedding documents in pieces that are kept: work that is interrupted goes on where it was.
//!
//! Beside the output stands a folder of that name with `.partial` behind it. It holds what the work is (`job.json`) and an Arrow file for every piece that is
//! done; each is written under another name and renamed. When all are there the output is put together, and the folder is removed.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use longreach_engine::{Long, Part, TextEncoder, batches, normalize};
use serde_json::{Value, json};

use crate::documents::{Document, Input};
use crate::table::{self, Columns, Row};
use crate::vectors::{Format, assemble};
use crate::{Error, documents};

/// What becomes of a document with more tokens than the model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LongDocument {
    /// It is split, and its vector is the mean of its parts', each weighing as much as it has tokens.
    Mean {
        /// Tokens a part shares with the one before.
        overlap: usize,
    },
    /// It is split, and each part is a row.
    Parts {
        /// The same.
        overlap: usize,
    },
    /// It is cut off.
    Truncate,
}

/// Some documents to be embedded.
#[derive(Debug)]
pub struct Job<'a> {
    /// The documents.
    pub input: &'a Input,
    /// The column that holds the text.
    pub column: Option<&'a str>,
    /// What is put before each.
    pub prompt: &'a str,
    /// What becomes of long ones.
    pub long: LongDocument,
    /// How many of a vector's first numbers are kept (Kusupati et al. 2022); all if absent.
    pub keep: Option<usize>,
    /// Tokens of a batch.
    pub batch: usize,
    /// Whether the text is kept beside its vector.
    pub text: bool,
}

/// How far the work is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Documents that are done.
    pub documents: u64,
    /// Those of them that were done when the work was taken up again.
    pub before: u64,
    /// Rows of the output.
    pub rows: u64,
    /// Tokens read since then.
    pub tokens: u64,
    /// Bytes of the input that have been read, about.
    pub bytes: u64,
    /// Documents that were longer than the model reads.
    pub long: u64,
    /// Documents without a character.
    pub empty: u64,
    /// Files of a folder that are no text.
    pub left_out: u64,
}

/// A piece is done when it has so many tokens or so many documents.
const TOKENS: usize = 64 * 1024;
const DOCUMENTS: usize = 4096;

impl Job<'_> {
    fn columns(&self, encoder: &TextEncoder) -> Columns {
        let width = encoder.width();
        Columns { width: self.keep.map_or(width, |keep| keep.min(width)), late: encoder.is_late(), text: self.text }
    }

    /// What tells this work from any other.
    fn about(&self, encoder: &TextEncoder) -> Value {
        let mut hasher = blake3::Hasher::new();
        hasher.update(encoder.model.config.as_bytes());
        hasher.update(encoder.model.dtype.name().as_bytes());
        for file in encoder.model.checkpoint.iter().flat_map(|c| c.contents()) {
            const ENDS: usize = 1 << 16;
            hasher.update(&file.len().to_le_bytes());
            hasher.update(&file[..file.len().min(ENDS)]);
            hasher.update(&file[file.len().saturating_sub(ENDS)..]);
        }
        json!({
            "model": encoder.name, "weights": hasher.finalize().to_hex().as_str(), "input": self.input.name(),
            "column": self.column, "prompt": self.prompt, "long": format!("{:?}", self.long), "keep": self.keep,
            "limit": encoder.limit(), "pooling": encoder.pipeline.pooling.iter().map(|p| p.name()).collect::<Vec<_>>(),
            "normalize": encoder.pipeline.normalizes(), "text": self.text,
        })
    }

    /// Embeds the documents and writes them to `out`. `progress` hears after every batch how far it is, and may end the work.
    pub fn run(
        &self,
        encoder: &TextEncoder,
        out: &Path,
        format: Format,
        progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<Progress, Error> {
        if encoder.is_late() && format == Format::Npy {
            let message = "a vector a token does not fit in .npy: want .parquet, .arrow or .jsonl";
            return Err(Error::file(out, message));
        }
        let folder = partial(out);
        let (shards, done) = self.pieces(encoder, &folder, progress)?;
        assemble(out, format, &self.columns(encoder).schema(), &shards)?;
        std::fs::remove_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        Ok(done)
    }

    /// Embeds the documents, a file a piece in `folder`; those there already are not made again.
    pub(crate) fn pieces(
        &self,
        encoder: &TextEncoder,
        folder: &Path,
        progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<(Vec<PathBuf>, Progress), Error> {
        let mut documents = self.input.documents(self.column)?;
        let mut shards = self.taken_up(encoder, folder)?;
        let mut done = Progress::default();
        for shard in &shards {
            let (documents, rows) = ended(shard)?;
            done.documents = documents;
            done.rows += rows;
        }
        done.before = done.documents;
        for i in 0..done.documents {
            match documents.next()? {
                Some((_, bytes)) => done.bytes = bytes,
                None => {
                    let message = format!("has only {i} documents; {} were embedded before", done.documents);
                    return Err(Error::file(Path::new(&self.input.name()), message));
                }
            }
        }
        let mut piece = Piece::default();
        loop {
            let next = documents.next()?;
            done.left_out = documents.left_out() as u64;
            let last = next.is_none();
            if let Some((document, bytes)) = next {
                piece.add(self, encoder, document, &mut done)?;
                done.bytes = bytes;
            }
            if piece.tokens >= TOKENS || piece.documents.len() >= DOCUMENTS || (last && !piece.documents.is_empty()) {
                let path = folder.join(format!("{:06}.arrow", shards.len()));
                let rows = piece.embed(self, encoder, &mut done, progress, folder)?;
                let columns = self.columns(encoder);
                table::write(&path, &columns.schema(), std::iter::once(Ok(columns.batch(&rows))))?;
                done.documents += piece.documents.len() as u64;
                done.rows += rows.len() as u64;
                shards.push(path);
                piece = Piece::default();
                if progress(&done).is_break() && !last {
                    return Err(Error::Interrupted { rows: done.documents, path: folder.to_owned() });
                }
            }
            if last {
                return Ok((shards, done));
            }
        }
    }

    /// The pieces there are already, of the same work.
    fn taken_up(&self, encoder: &TextEncoder, folder: &Path) -> Result<Vec<PathBuf>, Error> {
        let about = self.about(encoder);
        let file = folder.join("job.json");
        if !file.exists() {
            std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
            let text = format!("{about:#}\n");
            let written = longreach_models::write_atomically(&file, |out| out.write_all(text.as_bytes()));
            written.map_err(|e| Error::Engine(e.into()))?;
            return Ok(Vec::new());
        }
        let text = std::fs::read(&file).map_err(|e| Error::io(&file, e))?;
        let before: Value = serde_json::from_slice(&text).unwrap_or(Value::Null);
        if before != about {
            let fields = about.as_object().into_iter().flatten().filter(|(name, value)| before[*name] != **value);
            let fields = fields.map(|(name, _)| name.clone()).collect::<Vec<_>>().join(", ");
            let message =
                format!("holds the beginning of other work ({fields} differ): remove it, or choose another output");
            return Err(Error::file(folder, message));
        }
        let mut shards = Vec::new();
        loop {
            let path = folder.join(format!("{:06}.arrow", shards.len()));
            if !path.exists() {
                return Ok(shards);
            }
            shards.push(path);
        }
    }
}

/// Where the pieces of an output are until it is there.
pub fn partial(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

/// The number of the first document behind a piece, and the rows it has.
fn ended(shard: &Path) -> Result<(u64, u64), Error> {
    let (mut last, mut rows) = (0, 0);
    for batch in table::read(shard)? {
        let batch = batch?;
        let row = batch.column_by_name("row").and_then(|c| c.as_primitive_opt::<UInt64Type>().cloned());
        let row = row.ok_or_else(|| Error::file(shard, "damaged: it has no column `row`"))?;
        last = row.values().iter().copied().max().map_or(last, |most| most + 1);
        rows += row.values().len() as u64;
    }
    Ok((last, rows))
}

/// Documents that are embedded together.
#[derive(Default)]
struct Piece {
    documents: Vec<documents::Document>,
    /// Which document each part is of.
    of: Vec<usize>,
    parts: Vec<Part>,
    tokens: usize,
}

impl Piece {
    fn add(
        &mut self,
        job: &Job<'_>,
        encoder: &TextEncoder,
        document: Document,
        done: &mut Progress,
    ) -> Result<(), Error> {
        let long = match job.long {
            LongDocument::Truncate => Long::Truncate,
            LongDocument::Mean { overlap } | LongDocument::Parts { overlap } => Long::Split { overlap },
        };
        let parts = if encoder.is_late() {
            encoder.late_parts(&document.text, long)?
        } else {
            encoder.parts(&document.text, job.prompt, long)?
        };
        let cut = parts.last().is_some_and(|part| document.text[part.bytes.end..].chars().any(|c| !c.is_whitespace()));
        done.long += u64::from(parts.len() > 1 || cut);
        done.empty += u64::from(document.text.trim().is_empty());
        self.of.extend(std::iter::repeat_n(self.documents.len(), parts.len()));
        self.tokens += parts.iter().map(|part| part.ids.len()).sum::<usize>();
        self.parts.extend(parts);
        self.documents.push(document);
        Ok(())
    }

    fn embed(
        &self,
        job: &Job<'_>,
        encoder: &TextEncoder,
        done: &mut Progress,
        progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
        folder: &Path,
    ) -> Result<Vec<Row>, Error> {
        let mut vectors: Vec<Vec<f32>> = vec![Vec::new(); self.parts.len()];
        for batch in batches(&self.parts, job.batch) {
            let chosen: Vec<&Part> = batch.iter().map(|i| &self.parts[*i]).collect();
            let made: Vec<Vec<f32>> = if encoder.is_late() {
                encoder.late_documents(&chosen)?
            } else {
                encoder.vectors(&chosen).chunks(encoder.width()).map(<[f32]>::to_vec).collect()
            };
            for (i, vector) in batch.iter().zip(made) {
                vectors[*i] = vector;
            }
            done.tokens += chosen.iter().map(|part| part.ids.len() as u64).sum::<u64>();
            if progress(done).is_break() {
                return Err(Error::Interrupted { rows: done.documents, path: folder.to_owned() });
            }
        }
        let (width, keep) = (encoder.width(), job.keep.unwrap_or(usize::MAX));
        let finish = |mut vector: Vec<f32>| {
            if keep < width {
                vector = vector.chunks(width).flat_map(|v| v[..keep].iter().copied()).collect();
            }
            if encoder.pipeline.normalizes() || encoder.is_late() {
                normalize(&mut vector, keep.min(width));
            }
            vector
        };
        let row = |document: usize, parts: &[usize], vector: Vec<f32>| {
            let of = &self.documents[document];
            let (first, last) = (&self.parts[parts[0]].bytes, &self.parts[parts[parts.len() - 1]].bytes);
            let tokens: usize = parts.iter().map(|i| self.parts[*i].ids.len()).sum();
            Row {
                row: done.documents + document as u64,
                file: of.file.clone(),
                start: of.start + first.start as u64,
                end: of.start + last.end as u64,
                tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
                text: if job.text { of.text[first.start..last.end].to_owned() } else { String::new() },
                vector: finish(vector),
            }
        };
        let mut rows = Vec::new();
        let mut first = 0;
        while first < self.parts.len() {
            let document = self.of[first];
            let n = self.of[first..].iter().take_while(|of| **of == document).count();
            let parts: Vec<usize> = (first..first + n).collect();
            if matches!(job.long, LongDocument::Mean { .. }) && !encoder.is_late() {
                let mut mean = vec![0.0f64; width];
                let all: f64 = parts.iter().map(|i| self.parts[*i].ids.len() as f64).sum();
                for i in &parts {
                    let share = self.parts[*i].ids.len() as f64 / all;
                    mean.iter_mut().zip(&vectors[*i]).for_each(|(sum, x)| *sum += share * f64::from(*x));
                }
                rows.push(row(document, &parts, mean.into_iter().map(|x| x as f32).collect()));
            } else {
                parts.iter().for_each(|i| rows.push(row(document, &[*i], std::mem::take(&mut vectors[*i]))));
            }
            first += n;
        }
        Ok(rows)
    }
}
