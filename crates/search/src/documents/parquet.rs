//! Rows of Parquet files. Columns are read with their Parquet types; the Arrow schema that writers embed (dictionary or large strings) is ignored, so that all
//! kinds of strings are read alike.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use ::parquet::arrow::ProjectionMask;
use ::parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use ::parquet::file::metadata::ParquetMetaData;
use ::parquet::file::reader::ChunkReader;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use bytes::Bytes;

use super::column::{choose, find};
use super::source::{Source, utf8};
use super::{Document, Options, Place};
use crate::Error;
use crate::guard::guarded;

/// Rows per batch.
const ROWS: usize = 256;

/// A table.
pub(super) struct Parquet {
    path: PathBuf,
    file: Option<String>,
    /// `None` after the last batch or a panic of the reader.
    reader: Option<ParquetRecordBatchReader>,
    batch: Option<(RecordBatch, usize)>,
    /// Indices in a batch of the text column and of the copied columns.
    column: usize,
    fields: Vec<usize>,
    rows: u64,
    of: u64,
    bytes: u64,
}

impl Parquet {
    pub(super) fn of_file(path: &Path, options: &Options) -> Result<Self, Error> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let bytes = file.metadata().map_or(0, |about| about.len());
        Self::of(path, Some(path.display().to_string()), file, bytes, options)
    }

    /// Reads a pipe, buffered in memory because the footer is needed first.
    pub(super) fn of_source(mut source: Source, options: &Options) -> Result<Self, Error> {
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes).map_err(|e| Error::io(source.path(), e))?;
        let n = bytes.len() as u64;
        Self::of(source.path(), source.file(), Bytes::from(bytes), n, options)
    }

    fn of<R: ChunkReader + 'static>(
        path: &Path,
        file: Option<String>,
        reader: R,
        bytes: u64,
        options: &Options,
    ) -> Result<Self, Error> {
        let wrong = |e: ::parquet::errors::ParquetError| {
            let known = longreach_models::recognise_file(path);
            Error::file(path, known.map_or_else(|| format!("not a Parquet file: {e}"), |known| format!("is {known}")))
        };
        let as_stored = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let damaged = |message: String| Error::file(path, format!("damaged: {message}"));
        let opened = guarded(|| ParquetRecordBatchReaderBuilder::try_new_with_options(reader, as_stored));
        let builder = opened.map_err(damaged)?.map_err(wrong)?;
        places(builder.metadata(), bytes).map_err(damaged)?;
        let schema = builder.schema().clone();
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        let of_kind =
            |kind: DataType| -> Vec<bool> { schema.fields().iter().map(|f| *f.data_type() == kind).collect() };
        let said = |message: String| Error::file(path, message);
        // Some writers store strings as bytes without the string annotation.
        let (strings, binary) = (of_kind(DataType::Utf8), of_kind(DataType::Binary));
        let texts = if strings.contains(&true) { strings } else { binary };
        let column = choose(options.column.as_deref(), &names, &texts, "column").map_err(said)?;
        let found = schema.field(column).data_type();
        if !matches!(found, DataType::Utf8 | DataType::Binary) {
            return Err(said(format!("column `{}`: want strings, found {found}", names[column])));
        }
        let mut fields = Vec::new();
        for name in &options.fields {
            let i = find(name, &names, "column").map_err(said)?;
            let kind = schema.field(i).data_type();
            if !is_carried(kind) {
                let want = "only strings, numbers and booleans can be copied";
                return Err(said(format!("column `{name}`: {want}, found {kind}")));
            }
            fields.push(i);
        }
        let mut read: Vec<usize> = fields.iter().copied().chain([column]).collect();
        read.sort_unstable();
        read.dedup();
        let place = |i: usize| read.iter().position(|r| *r == i).unwrap_or(0);
        let (column, fields) = (place(column), fields.into_iter().map(place).collect());
        let of = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        let mask = ProjectionMask::roots(builder.parquet_schema(), read.iter().copied());
        let reader = builder.with_projection(mask).with_batch_size(ROWS).build().map_err(wrong)?;
        let reader = Some(reader);
        Ok(Self { path: path.to_owned(), file, reader, batch: None, column, fields, rows: 0, of, bytes })
    }

    pub(super) fn next(&mut self) -> Result<Option<(Document, u64)>, Error> {
        loop {
            if let Some((batch, at)) = &mut self.batch
                && *at < batch.num_rows()
            {
                let (i, row) = (*at, self.rows);
                *at += 1;
                self.rows += 1;
                let wrong = |message| Error::file(&self.path, format!("row {row}: {message}"));
                let value = |column: usize| value(batch.column(column), i).map_err(wrong);
                let text = value(self.column)?.unwrap_or_default();
                let fields = self.fields.iter().map(|column| value(*column)).collect::<Result<_, _>>()?;
                let done = (self.bytes as f64 * self.rows as f64 / self.of.max(1) as f64) as u64;
                let document = Document { text, file: self.file.clone(), start: 0, place: Place::Row(row), fields };
                return Ok(Some((document, done)));
            }
            let Some(mut reader) = self.reader.take() else { return Ok(None) };
            match guarded(|| reader.next()) {
                Err(panic) => return Err(Error::file(&self.path, format!("damaged: {panic}"))),
                Ok(None) => return Ok(None),
                Ok(Some(Err(e))) => return Err(Error::file(&self.path, format!("damaged: {e}"))),
                Ok(Some(Ok(batch))) => {
                    self.batch = Some((batch, 0));
                    self.reader = Some(reader);
                }
            }
        }
    }
}

/// Checks that all column chunks lie within the file of `length` bytes; the reader panics on invalid offsets and lengths.
fn places(about: &ParquetMetaData, length: u64) -> Result<(), String> {
    for group in about.row_groups() {
        if group.num_rows() < 0 {
            return Err(format!("a group of {} rows", group.num_rows()));
        }
        for column in group.columns() {
            let starts = [Some(column.data_page_offset()), column.dictionary_page_offset(), column.index_page_offset()];
            let within = |start: i64| {
                let end = u64::try_from(start).ok().zip(u64::try_from(column.compressed_size()).ok());
                end.and_then(|(start, n)| start.checked_add(n)).is_some_and(|end| end <= length)
            };
            let begin = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
            if column.num_values() < 0 || !within(begin) || starts.into_iter().flatten().any(|start| start < 0) {
                return Err(format!("column `{}` lies outside the file", column.column_path().string()));
            }
        }
    }
    Ok(())
}

fn is_carried(kind: &DataType) -> bool {
    kind.is_integer()
        || matches!(kind, DataType::Utf8 | DataType::Binary | DataType::Boolean | DataType::Float32 | DataType::Float64)
}

/// A value as a string; `None` for null.
fn value(column: &dyn Array, i: usize) -> Result<Option<String>, String> {
    macro_rules! number {
        ($kind:ty) => {
            column.as_primitive::<$kind>().value(i).to_string()
        };
    }
    if column.is_null(i) {
        return Ok(None);
    }
    Ok(Some(match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(i).to_owned(),
        DataType::Binary => utf8(column.as_binary::<i32>().value(i).to_vec())?,
        DataType::Boolean => column.as_boolean().value(i).to_string(),
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float32 => number!(Float32Type),
        DataType::Float64 => number!(Float64Type),
        other => return Err(format!("want a string, a number or a boolean, found {other}")),
    }))
}
