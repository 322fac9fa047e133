//! Passages with their vectors as tables of Arrow.

use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{
    ArrayRef, FixedSizeListArray, Float32Array, LargeListArray, RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use arrow_buffer::{OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

use crate::Error;

/// What a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Columns {
    /// How many numbers a vector has.
    pub(crate) width: usize,
    /// Whether there is a vector a token.
    pub(crate) late: bool,
    /// Whether the text is there.
    pub(crate) text: bool,
}

/// A document or a passage of one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) row: u64,
    pub(crate) file: Option<String>,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) tokens: u32,
    pub(crate) text: String,
    pub(crate) vector: Vec<f32>,
}

fn item() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Float32, false))
}

impl Columns {
    fn vector(&self) -> DataType {
        DataType::FixedSizeList(item(), self.width as i32)
    }

    pub(crate) fn schema(&self) -> SchemaRef {
        let mut fields = vec![
            Field::new("row", DataType::UInt64, false),
            Field::new("file", DataType::Utf8, true),
            Field::new("start", DataType::UInt64, false),
            Field::new("end", DataType::UInt64, false),
            Field::new("tokens", DataType::UInt32, false),
        ];
        if self.text {
            fields.push(Field::new("text", DataType::Utf8, false));
        }
        fields.push(if self.late {
            let each = Arc::new(Field::new("item", self.vector(), false));
            Field::new("vectors", DataType::LargeList(each), false)
        } else {
            Field::new("vector", self.vector(), false)
        });
        Arc::new(Schema::new(fields))
    }

    pub(crate) fn batch(&self, rows: &[Row]) -> RecordBatch {
        let of = |f: fn(&Row) -> u64| Arc::new(UInt64Array::from_iter_values(rows.iter().map(f))) as ArrayRef;
        let mut files = StringBuilder::new();
        rows.iter().for_each(|row| files.append_option(row.file.as_deref()));
        let mut columns = vec![
            of(|r| r.row),
            Arc::new(files.finish()) as ArrayRef,
            of(|r| r.start),
            of(|r| r.end),
            Arc::new(UInt32Array::from_iter_values(rows.iter().map(|r| r.tokens))),
        ];
        if self.text {
            columns.push(Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.text))));
        }
        let numbers: Vec<f32> = rows.iter().flat_map(|r| r.vector.iter().copied()).collect();
        let vectors = FixedSizeListArray::new(item(), self.width as i32, Arc::new(Float32Array::from(numbers)), None);
        columns.push(if self.late {
            let mut ends = vec![0i64];
            let mut end = 0;
            for row in rows {
                end += (row.vector.len() / self.width.max(1)) as i64;
                ends.push(end);
            }
            let each = Arc::new(Field::new("item", self.vector(), false));
            let bounds = OffsetBuffer::new(ScalarBuffer::from(ends));
            Arc::new(LargeListArray::new(each, bounds, Arc::new(vectors), None))
        } else {
            Arc::new(vectors)
        });
        RecordBatch::try_new(self.schema(), columns).expect("columns of the schema, all of a length")
    }
}

/// Writes batches to an Arrow file, whole or not at all.
pub(crate) fn write(
    path: &Path,
    schema: &SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch, Error>>,
) -> Result<(), Error> {
    // What the tables say is wrong, if it is not the file that is.
    let mut inner = None;
    let written = longreach_models::write_atomically(path, |out| {
        let said = |e: arrow_schema::ArrowError| match e {
            arrow_schema::ArrowError::IoError(_, e) => e,
            e => std::io::Error::other(e),
        };
        let mut writer = arrow_ipc::writer::FileWriter::try_new(out, schema).map_err(said)?;
        for batch in batches {
            match batch {
                Ok(batch) => writer.write(&batch).map_err(said)?,
                Err(e) => {
                    inner = Some(e);
                    return Err(std::io::Error::other("a part cannot be read"));
                }
            }
        }
        writer.finish().map_err(said)
    });
    match (written, inner) {
        (_, Some(e)) => Err(e),
        (Err(e), None) => Err(Error::Engine(e.into())),
        (Ok(()), None) => Ok(()),
    }
}

/// The batches of an Arrow file.
pub(crate) fn read(path: &Path) -> Result<impl Iterator<Item = Result<RecordBatch, Error>>, Error> {
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    let wrong = |e: arrow_schema::ArrowError| Error::file(path, format!("damaged: {e}"));
    let reader = arrow_ipc::reader::FileReader::try_new_buffered(file, None).map_err(wrong)?;
    let path = path.to_owned();
    Ok(reader.map(move |batch| batch.map_err(|e| Error::file(&path, format!("damaged: {e}")))))
}
