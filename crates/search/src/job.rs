//! Embedding documents in shards on disk, so that an interrupted job resumes where it stopped.
//!
//! The folder `OUT.partial` holds a description of the job (`job.json`) and one Arrow file per finished shard, each written atomically. Once all shards exist
//! the output is assembled from them and the folder is removed.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use arrow_schema::SchemaRef;
use longreach_engine::TextEncoder;
use serde_json::{Value, json};

use crate::Error;
use crate::documents::{Input, Options};
use crate::filling::Piece;
use crate::join::{COUNT, JOB, SHARD};
use crate::output::{Existing, check_file};
use crate::piece::{self, Made};
use crate::table::{Columns, check_fields};
use crate::vectors::{Format, assemble};

/// How to treat a document longer than the input limit of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LongDocument {
    /// Split it; its vector is the mean of the vectors of its parts, weighted by token count.
    Mean {
        /// Overlap of consecutive parts, in tokens.
        overlap: usize,
    },
    /// Split it; each part is a row.
    Parts {
        /// Overlap of consecutive parts, in tokens.
        overlap: usize,
    },
    /// Truncate it.
    Truncate,
}

/// How to treat a document of white space only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blank {
    /// Embed it like any other, so that output rows correspond to input documents.
    Keep,
    /// Skip it: its vector would match arbitrary queries.
    LeaveOut,
}

/// An embedding job.
#[derive(Debug)]
pub struct Job<'a> {
    /// The documents.
    pub input: &'a Input,
    /// How the documents are read.
    pub options: &'a Options,
    /// Prompt that is prepended to each document.
    pub prompt: &'a str,
    /// How long documents are treated.
    pub long: LongDocument,
    /// How blank documents are treated.
    pub blank: Blank,
    /// Number of leading dimensions to keep (Matryoshka, Kusupati et al. 2022); all if `None`.
    pub keep: Option<usize>,
    /// Size of a packed batch in tokens.
    pub batch: usize,
    /// Whether to write the text along with its vector.
    pub text: bool,
}

/// The progress of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Finished documents.
    pub documents: u64,
    /// Documents of the input that were read, those of other shards included.
    pub passed: u64,
    /// Those of them that an earlier run had finished.
    pub before: u64,
    /// Finished rows of the output.
    pub rows: u64,
    /// Tokens encoded in this run.
    pub tokens: u64,
    /// Approximate number of input bytes read.
    pub bytes: u64,
    /// Documents longer than the input limit of the model.
    pub long: u64,
    /// Largest overlap of two parts of such a document, in tokens.
    pub shared: u64,
    /// Blank documents.
    pub blank: u64,
    /// Files of a folder that were skipped because they are not text.
    pub left_out: u64,
    /// Symbolic links of a folder that are broken or form a cycle.
    pub broken_links: u64,
}

/// A shard is written once it has this many tokens or documents.
const TOKENS: usize = 64 * 1024;
const DOCUMENTS: usize = 4096;

impl Job<'_> {
    pub(crate) fn columns(&self, encoder: &TextEncoder) -> Columns {
        let width = encoder.width();
        Columns {
            width: self.keep.map_or(width, |keep| keep.min(width)),
            late: encoder.is_late(),
            text: self.text,
            fields: self.options.fields.clone(),
        }
    }

    /// Everything that the vectors depend on; a job resumes only if this is unchanged.
    fn about(&self, encoder: &TextEncoder) -> Value {
        let mut settings = encoder.settings();
        // The similarity does not affect the vectors.
        settings.as_object_mut().map(|settings| settings.remove("similarity"));
        json!({
            "model": encoder.name, "weights and tokenizer": encoder.fingerprint(), "settings": settings,
            "input": self.input.name(), "kind of input": self.input.kind(),
            "format": self.options.format.map(|kind| kind.name()), "column": self.options.column,
            "fields": self.options.fields, "prompt": self.prompt, "long": format!("{:?}", self.long),
            "blank": format!("{:?}", self.blank), "keep": self.keep, "text": self.text,
        })
    }

    /// The columns of the output, and for a shard its number, and what all shards of a job share: a hash of the job, and the
    /// number of documents.
    fn schema(&self, encoder: &TextEncoder, documents: u64) -> SchemaRef {
        let schema = self.columns(encoder).schema();
        let Some(shard) = self.options.shard else { return schema };
        let mut about = self.about(encoder);
        // Machines may have the same input under different names.
        about.as_object_mut().map(|about| about.remove("input"));
        let job = blake3::hash(about.to_string().as_bytes()).to_hex().to_string();
        let metadata = [(SHARD, shard.to_string()), (JOB, job), (COUNT, documents.to_string())];
        let metadata = metadata.map(|(name, value)| (name.to_owned(), value));
        schema.as_ref().clone().with_metadata(HashMap::from(metadata)).into()
    }

    /// The description of the folder of an unfinished output.
    fn described(&self, encoder: &TextEncoder) -> Value {
        let mut about = self.about(encoder);
        if let Some(shard) = self.options.shard {
            about["shard"] = json!(shard.to_string());
        }
        about
    }

    /// Embeds the documents and writes the vectors to `out`, atomically. `progress` is called after every batch and may stop the job, which is then resumed by
    /// the next call with the same arguments.
    pub fn run(
        &self,
        encoder: &TextEncoder,
        out: &Path,
        existing: Existing,
        progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<Progress, Error> {
        let format = check_file(out, self.input, existing)?;
        if format == Format::Npy && encoder.is_late() {
            let message = "token vectors cannot be stored in .npy: want .parquet, .arrow or .jsonl";
            return Err(Error::file(out, message));
        }
        if format == Format::Npy && (self.text || !self.options.fields.is_empty()) {
            let message = "texts and fields cannot be stored in .npy: want .parquet, .arrow or .jsonl";
            return Err(Error::file(out, message));
        }
        if let Some(shard) = self.options.shard
            && format != Format::Arrow
        {
            let message = format!("shard {shard} is joined with the others later: want a name that ends in .arrow");
            return Err(Error::file(out, message));
        }
        let folder = partial(out);
        let (pieces, done) = self.pieces(encoder, out, progress)?;
        let paths: Vec<PathBuf> = pieces.into_iter().map(|piece| piece.path).collect();
        assemble(out, format, &self.schema(encoder, done.passed), &paths)?;
        std::fs::remove_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        Ok(done)
    }

    /// Embeds the documents into shards in the folder `OUT.partial`. Shards of an earlier run are verified and reused.
    pub(crate) fn pieces(
        &self,
        encoder: &TextEncoder,
        out: &Path,
        progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<(Vec<Made>, Progress), Error> {
        check_fields(&self.options.fields)?;
        let folder = partial(out);
        let mut options = self.options.clone();
        options.leave_out.extend([out.to_owned(), folder.clone()]);
        let mut documents = self.input.read(&options)?;
        let columns = self.columns(encoder);
        let mut pieces = self.taken_up(encoder, &folder, &columns)?;
        let mut done = Progress::default();
        let mut seen = piece::Seen::default();
        for piece in &pieces {
            let changed = || {
                let message = format!(
                    "has changed since its first {} documents were embedded: remove {}, or choose another output",
                    piece.documents,
                    folder.display()
                );
                Error::file(Path::new(&self.input.name()), message)
            };
            while done.documents < piece.documents {
                let (document, bytes) = documents.next()?.ok_or_else(changed)?;
                seen.add(&document);
                done.documents += 1;
                done.bytes = bytes;
            }
            if seen.hash() != piece.input {
                return Err(changed());
            }
            done.rows += piece.rows;
            done.long += piece.long;
            done.blank += piece.blank;
            done.shared = done.shared.max(piece.shared);
        }
        done.before = done.documents;
        let mut piece = Piece::default();
        loop {
            let next = documents.next()?;
            done.passed = documents.passed();
            done.left_out = documents.left_out() as u64;
            done.broken_links = documents.broken_links() as u64;
            let last = next.is_none();
            if let Some((document, bytes)) = next {
                seen.add(&document);
                piece.add(self, encoder, document)?;
                done.bytes = bytes;
            }
            if piece.tokens >= TOKENS || piece.documents.len() >= DOCUMENTS || (last && !piece.documents.is_empty()) {
                let rows = piece.embed(self, encoder, &mut done, progress, &folder)?;
                done.documents += piece.documents.len() as u64;
                done.rows += rows.len() as u64;
                done.long += piece.long;
                done.blank += piece.blank;
                done.shared = done.shared.max(piece.shared);
                let made = Made {
                    path: folder.join(format!("{:06}.arrow", pieces.len())),
                    documents: done.documents,
                    rows: rows.len() as u64,
                    long: piece.long,
                    blank: piece.blank,
                    shared: piece.shared,
                    input: seen.hash(),
                    checksum: String::new(),
                };
                pieces.push(made.write(&columns, &rows)?);
                piece = Piece::default();
                if progress(&done).is_break() && !last {
                    return Err(Error::Interrupted { rows: done.documents, path: folder });
                }
            }
            if last && done.documents == 0 && self.options.shard.is_none() {
                std::fs::remove_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
                return Err(self.input.nothing());
            }
            if last {
                return Ok((pieces, done));
            }
        }
    }

    /// The shards of an earlier run of the same job.
    fn taken_up(&self, encoder: &TextEncoder, folder: &Path, columns: &Columns) -> Result<Vec<Made>, Error> {
        let about = self.described(encoder);
        let file = folder.join("job.json");
        let place = |i: usize| folder.join(format!("{i:06}.arrow"));
        if !place(0).exists() {
            std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
            let text = format!("{about:#}\n");
            let written = longreach_models::write_atomically(&file, |out| out.write_all(text.as_bytes()));
            written.map_err(|e| Error::Engine(e.into()))?;
            return Ok(Vec::new());
        }
        let text = std::fs::read(&file).map_err(|e| Error::io(&file, e))?;
        let before: Value = serde_json::from_slice(&text)
            .map_err(|e| Error::file(&file, format!("damaged: {e}: remove {}", folder.display())))?;
        let differ = differences(&before, &about);
        if !differ.is_empty() {
            let message = format!(
                "holds partial results of another job ({} differ): remove it, or choose another output",
                differ.join(", ")
            );
            return Err(Error::file(folder, message));
        }
        let mut pieces: Vec<Made> = Vec::new();
        while place(pieces.len()).exists() {
            let piece = Made::read(&place(pieces.len()), columns)?;
            if pieces.last().is_some_and(|before| before.documents >= piece.documents) {
                return Err(Error::file(&piece.path, "damaged: it repeats documents of the shard before it"));
            }
            pieces.push(piece);
        }
        Ok(pieces)
    }
}

/// The names of the fields in which two descriptions differ, with the fields of `settings` compared one by one.
fn differences(a: &Value, b: &Value) -> Vec<String> {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return vec!["all fields".into()] };
    let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
    names.sort();
    names.dedup();
    let of = |name: &String| {
        let (a, b) = (a.get(name), b.get(name));
        match (a, b) {
            _ if a == b => Vec::new(),
            (Some(a), Some(b)) if name == "settings" => differences(a, b),
            _ => vec![name.clone()],
        }
    };
    names.into_iter().flat_map(of).collect()
}

/// The folder of the shards of an unfinished output: `OUT.partial`.
pub fn partial(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}
