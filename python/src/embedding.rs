//! Vectors of many texts: those in memory, tables of Arrow, and files.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, RecordBatchOptions, RecordBatchReader, StructArray,
};
use arrow_buffer::NullBuffer;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use longreach_engine::{Cancel, Long, Part, TextEncoder, batches};
use longreach_search::documents::{Input, Options};
use longreach_search::job::{Blank, Job, LongDocument, Progress};
use longreach_search::output::Existing;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::arrow::{Chunks, Table, holds_texts, texts};
use crate::encoder::{Encoder, asked};
use crate::error::{Failure, work};
use crate::model::heed;

/// The column that is added.
const VECTOR: &str = "vector";

/// Rows of a batch of a table: enough to sort by length and pack into several batches of tokens.
const ROWS: usize = 4096;

/// The vectors of texts, `[texts, width]`; zeros for those that are missing. Texts beyond the limit of the model are cut.
pub(crate) fn vectors(
    encoder: &TextEncoder,
    texts: &[Option<&str>],
    prompt: &str,
    batch_tokens: usize,
    cancel: &Cancel,
) -> Result<Vec<f32>, Failure> {
    let (mut parts, mut rows) = (Vec::with_capacity(texts.len()), Vec::with_capacity(texts.len()));
    for (row, text) in texts.iter().enumerate() {
        let Some(text) = text else { continue };
        for part in encoder.parts(text, prompt, Long::Truncate)? {
            parts.push(part);
            rows.push(row);
        }
        heed(cancel)?;
    }
    let width = encoder.width();
    let mut vectors = vec![0.0f32; texts.len() * width];
    for batch in batches(&parts, batch_tokens.max(1)) {
        let chosen: Vec<&Part> = batch.iter().map(|i| &parts[*i]).collect();
        for (i, vector) in batch.iter().zip(encoder.vectors(&chosen).chunks(width.max(1))) {
            vectors[rows[*i] * width..(rows[*i] + 1) * width].copy_from_slice(vector);
        }
        heed(cancel)?;
    }
    Ok(vectors)
}

/// A table with the vectors of one of its columns as a column more, which is computed batch by batch.
struct Embedded {
    encoder: Arc<TextEncoder>,
    prompt: String,
    batch_tokens: usize,
    chunks: Chunks,
    /// The column of texts; `None` if the chunks are texts themselves.
    column: Option<usize>,
    schema: SchemaRef,
    /// What is left of the chunk that was read last.
    rest: Option<ArrayRef>,
}

impl Embedded {
    /// The next rows, with their vectors.
    fn read(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        let rest = match self.rest.take() {
            Some(rest) => rest,
            None => loop {
                match self.chunks.next().transpose()? {
                    None => return Ok(None),
                    Some(chunk) if chunk.is_empty() => {}
                    Some(chunk) => break chunk,
                }
            },
        };
        let rows = rest.len().min(ROWS);
        let part = rest.slice(0, rows);
        self.rest = (rows < rest.len()).then(|| rest.slice(rows, rest.len() - rows));
        let mut columns = match self.column {
            None => Vec::new(),
            Some(_) => match part.as_any().downcast_ref::<StructArray>() {
                Some(table) => table.columns().to_vec(),
                None => return Err(ArrowError::SchemaError("a batch is no table".into())),
            },
        };
        let source = self.column.map_or(&part, |i| &columns[i]);
        let missing = source.nulls().cloned();
        let vectors = self.vectors(&texts(source))?;
        columns.push(Arc::new(self.list(vectors, missing)?));
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).map(Some)
    }

    /// The vectors, computed without the interpreter's lock, whether the reader of the table holds it or not.
    fn vectors(&self, texts: &[Option<&str>]) -> Result<Vec<f32>, ArrowError> {
        let cancel = Cancel::default();
        let (encoder, prompt, batch) = (&self.encoder, &self.prompt[..], self.batch_tokens);
        Python::attach(|py| {
            let found = work(py, &cancel, || vectors(encoder, texts, prompt, batch, &cancel));
            // The message goes through C, where it ends at a NUL.
            found.map_err(|error| ArrowError::ComputeError(error.to_string().replace('\0', "")))
        })
    }

    fn list(&self, vectors: Vec<f32>, missing: Option<NullBuffer>) -> Result<FixedSizeListArray, ArrowError> {
        let values = Arc::new(Float32Array::from(vectors));
        FixedSizeListArray::try_new(item(), wide(self.encoder.width())?, values, missing)
    }
}

impl Iterator for Embedded {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

impl RecordBatchReader for Embedded {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

fn item() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Float32, true))
}

fn wide(width: usize) -> Result<i32, ArrowError> {
    i32::try_from(width).map_err(|_| ArrowError::SchemaError(format!("vectors of {width} dimensions are too wide")))
}

/// The table with vectors of a table, or of texts alone. `column` is by default `text`, or the only column of texts.
pub(crate) fn table(
    encoder: &Arc<TextEncoder>,
    chunks: Chunks,
    column: Option<&str>,
    prompt: String,
    batch_tokens: usize,
) -> PyResult<Table> {
    let wrong = |message: String| PyValueError::new_err(message);
    if encoder.is_late() {
        return Err(wrong(format!(
            "embed: {} has a vector for each token, want a model with one for a text",
            encoder.name
        )));
    }
    let (mut fields, place) = match (chunks.field.data_type(), column) {
        (DataType::Struct(fields), name) => (fields.to_vec(), Some(of_texts(fields, name).map_err(wrong)?)),
        (kind, None) if holds_texts(kind) => (Vec::new(), None),
        (kind, None) => return Err(wrong(format!("embed: the input is of the type {kind}, want strings or a table"))),
        (_, Some(name)) => return Err(wrong(format!("embed: `column` is {name:?}, but the input is no table"))),
    };
    if fields.iter().any(|field| field.name() == VECTOR) {
        return Err(wrong(format!("embed: the input has a column {VECTOR:?} already: rename it")));
    }
    let kind = DataType::FixedSizeList(item(), wide(encoder.width()).map_err(crate::arrow::wrong)?);
    fields.push(Arc::new(Field::new(VECTOR, kind, true)));
    let schema = Arc::new(Schema::new(fields).with_metadata(chunks.field.metadata().clone()));
    let encoder = Arc::clone(encoder);
    Ok(Table::new(Box::new(Embedded { encoder, prompt, batch_tokens, chunks, column: place, schema, rest: None })))
}

/// The place of the column of texts.
fn of_texts(fields: &[Arc<Field>], name: Option<&str>) -> Result<usize, String> {
    let all: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
    let mut known = (0..fields.len()).filter(|i| holds_texts(fields[*i].data_type()));
    let found = match name {
        Some(name) => all.iter().position(|one| *one == name),
        None => all.iter().position(|one| *one == "text").or_else(|| known.next().filter(|_| known.next().is_none())),
    };
    match (found, name) {
        (Some(i), _) if holds_texts(fields[i].data_type()) => Ok(i),
        (Some(i), _) => Err(format!("embed: column {:?} has type {}, want strings", all[i], fields[i].data_type())),
        (None, Some(name)) => Err(format!("embed: there is no column {name:?}; there are {}", all.join(", "))),
        (None, None) => {
            Err(format!("embed: give `column`: it is not clear which holds the texts of {}", all.join(", ")))
        }
    }
}

/// A job over files.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Files {
    input: OsString,
    out: PathBuf,
    column: Option<String>,
    fields: Vec<String>,
    long: String,
    overlap: usize,
    batch_tokens: usize,
    with_text: bool,
    overwrite: bool,
    prompt: Option<String>,
    prompt_name: Option<String>,
    on_progress: Option<Py<PyAny>>,
}

/// Embeds the documents of files into a file. Returns the numbers of documents, of those that an earlier run had done, of
/// rows and of tokens. An interrupted job goes on when it is called again.
#[pyfunction]
pub(crate) fn embed_files(py: Python<'_>, encoder: &Encoder, what: Files) -> PyResult<(u64, u64, u64, u64)> {
    let overlap = what.overlap;
    let long = match &what.long[..] {
        "mean" => LongDocument::Mean { overlap },
        "parts" => LongDocument::Parts { overlap },
        "truncate" => LongDocument::Truncate,
        other => {
            return Err(PyValueError::new_err(format!("embed: `long` is {other:?}, want mean, parts or truncate")));
        }
    };
    let (cancel, mut raised) = (Cancel::default(), None);
    let done = work(py, &cancel, || {
        let encoder = &encoder.encoder;
        let input = Input::of(&what.input)?;
        let options = Options { column: what.column, fields: what.fields, ..Options::default() };
        let prompt = encoder.prompt(asked(what.prompt.as_deref(), what.prompt_name.as_deref(), None))?;
        let (batch, text) = (what.batch_tokens.max(1), what.with_text);
        let job = Job { input: &input, options: &options, prompt, long, blank: Blank::Keep, keep: None, batch, text };
        let existing = if what.overwrite { Existing::Replace } else { Existing::Refuse };
        let mut progress = |p: &Progress| {
            if let Some(call) = &what.on_progress
                && let Err(error) = Python::attach(|py| call.call1(py, (p.documents, p.rows)))
            {
                raised = Some(error);
                return ControlFlow::Break(());
            }
            if cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        Ok(job.run(encoder, &what.out, existing, &mut progress)?)
    });
    if let Some(error) = raised {
        return Err(error);
    }
    let done = done?;
    Ok((done.documents, done.before, done.rows, done.tokens))
}
