//! Output files for vectors: Parquet, Arrow, NumPy and JSON Lines.

use std::io::Write;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt32Type, UInt64Type};
use arrow_array::{Array, RecordBatch};
use arrow_schema::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde_json::json;

use crate::ipc::Table;
use crate::{Error, table};

/// An output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A table with the columns `row`, `file`, `start`, `end`, `tokens`, optionally `text` and copied fields, and `vector` (or `vectors`).
    Parquet,
    /// The same table as Arrow.
    Arrow,
    /// The same table as one JSON object per line.
    Jsonl,
    /// The vectors only, as f32 of shape `[n, d]`.
    Npy,
}

impl Format {
    /// The format by the extension of a file name; an error if it is not known.
    pub fn of(path: &Path) -> Result<Self, Error> {
        match path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase().as_str() {
            "parquet" => Ok(Format::Parquet),
            "arrow" | "feather" => Ok(Format::Arrow),
            "jsonl" | "ndjson" => Ok(Format::Jsonl),
            "npy" => Ok(Format::Npy),
            _ => Err(Error::file(path, "want a name that ends in .parquet, .arrow, .npy or .jsonl")),
        }
    }
}

/// Concatenates the rows of Arrow shards into `path`, atomically.
pub(crate) fn assemble(path: &Path, format: Format, schema: &SchemaRef, shards: &[PathBuf]) -> Result<(), Error> {
    let batches = shards.iter().flat_map(|shard| match read(shard, schema) {
        Ok(batches) => batches,
        Err(e) => vec![Err(e)],
    });
    let rows = if format == Format::Npy { count(schema, shards)? } else { 0 };
    save(path, format, schema, rows, batches)
}

/// Writes batches to `path`, atomically. `rows` is their number of rows, which [`Format::Npy`] needs in advance.
pub(crate) fn save(
    path: &Path,
    format: Format,
    schema: &SchemaRef,
    rows: usize,
    mut batches: impl Iterator<Item = Result<RecordBatch, Error>>,
) -> Result<(), Error> {
    if format == Format::Arrow {
        return table::write(path, schema, batches);
    }
    let mut inner = None;
    let written = longreach_models::write_atomically(path, |out| {
        let mut each = |then: &mut dyn FnMut(RecordBatch) -> std::io::Result<()>| {
            for batch in batches.by_ref() {
                match batch {
                    Ok(batch) => then(batch)?,
                    Err(e) => {
                        inner = Some(e);
                        return Err(std::io::Error::other("a shard cannot be read"));
                    }
                }
            }
            Ok(())
        };
        match format {
            Format::Parquet => {
                let said = |e: parquet::errors::ParquetError| std::io::Error::other(e);
                let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                // `ArrowWriter` needs a `Send` sink, which `out` is not, so a temporary file is written first.
                let mut sink = tempfile::tempfile()?;
                let mut writer =
                    ArrowWriter::try_new(sink.try_clone()?, schema.clone(), Some(properties)).map_err(said)?;
                each(&mut |batch| writer.write(&batch).map_err(said))?;
                writer.close().map_err(said)?;
                std::io::Seek::rewind(&mut sink)?;
                std::io::copy(&mut sink, out).map(|_| ())
            }
            Format::Npy => {
                let width = match schema.field_with_name("vector").map(|field| field.data_type()) {
                    Ok(arrow_schema::DataType::FixedSizeList(_, width)) => *width,
                    _ => 0,
                };
                out.write_all(&header(rows, width as usize))?;
                each(&mut |batch| {
                    let numbers = numbers(&batch);
                    let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
                    out.write_all(&bytes)
                })
            }
            _ => each(&mut |batch| lines(&batch, out)),
        }
    });
    match (written, inner) {
        (_, Some(e)) => Err(e),
        (Err(e), None) => Err(Error::Engine(e.into())),
        (Ok(()), None) => Ok(()),
    }
}

/// The record batches of a shard, which point into its memory map.
fn read(shard: &Path, schema: &SchemaRef) -> Result<Vec<Result<RecordBatch, Error>>, Error> {
    Ok(Table::open(shard)?.batches(schema)?.collect())
}

fn count(schema: &SchemaRef, shards: &[PathBuf]) -> Result<usize, Error> {
    let mut rows = 0;
    for shard in shards {
        for batch in read(shard, schema)? {
            rows += batch?.num_rows();
        }
    }
    Ok(rows)
}

/// The vectors of a batch, concatenated.
fn numbers(batch: &RecordBatch) -> Vec<f32> {
    let Some(column) = batch.column_by_name("vector") else { return Vec::new() };
    column.as_fixed_size_list().values().as_primitive::<Float32Type>().values().to_vec()
}

/// The header of a NumPy file, version 1.0.
fn header(rows: usize, width: usize) -> Vec<u8> {
    let mut about = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    // With the ten bytes before it and the final newline, the header is a multiple of 64 bytes.
    let padding = 63 - (10 + about.len()) % 64;
    about.push_str(&" ".repeat(padding));
    about.push('\n');
    let mut head = b"\x93NUMPY\x01\x00".to_vec();
    head.extend_from_slice(&(about.len() as u16).to_le_bytes());
    head.extend_from_slice(about.as_bytes());
    head
}

fn lines(batch: &RecordBatch, out: &mut dyn Write) -> std::io::Result<()> {
    let number = |name: &str, i: usize| {
        let column = batch.column_by_name(name)?;
        let wide = column.as_primitive_opt::<UInt64Type>().map(|c| c.value(i));
        wide.or_else(|| column.as_primitive_opt::<UInt32Type>().map(|c| u64::from(c.value(i))))
    };
    let text = |name: &str, i: usize| {
        let column = batch.column_by_name(name)?.as_string_opt::<i32>()?;
        (!column.is_null(i)).then(|| column.value(i).to_owned())
    };
    for i in 0..batch.num_rows() {
        let floats = |list: &dyn Array| list.as_primitive::<Float32Type>().values().to_vec();
        let vector = match (batch.column_by_name("vector"), batch.column_by_name("vectors")) {
            (Some(column), _) => json!(floats(&column.as_fixed_size_list().value(i))),
            (None, Some(column)) => {
                let each = column.as_list::<i64>().value(i);
                let each = each.as_fixed_size_list();
                json!((0..each.len()).map(|t| floats(&each.value(t))).collect::<Vec<_>>())
            }
            _ => json!(null),
        };
        let mut line = json!({
            "row": number("row", i), "start": number("start", i), "end": number("end", i), "tokens": number("tokens", i),
            "vector": vector,
        });
        for name in ["file", "text"] {
            if let Some(text) = text(name, i) {
                line[name] = json!(text);
            }
        }
        for name in fields(batch) {
            line[name] = json!(text(name, i));
        }
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// The names of the columns copied from the documents.
fn fields(batch: &RecordBatch) -> Vec<&str> {
    let names = batch.schema_ref().fields().iter().map(|field| field.name().as_str());
    names.filter(|name| !table::OWN.contains(name)).collect()
}
