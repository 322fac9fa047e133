//! Passages and their vectors as Arrow tables.

use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt32Type, UInt64Type};
use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, Float32Array, LargeListArray, RecordBatch, StringArray, UInt32Array,
    UInt64Array,
};
use arrow_buffer::{OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

use crate::Error;

/// The columns of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Columns {
    /// Number of dimensions of a vector.
    pub(crate) width: usize,
    /// Whether there is one vector per token.
    pub(crate) late: bool,
    /// Whether there is a `text` column.
    pub(crate) text: bool,
    /// Names of the string columns copied from the documents.
    pub(crate) fields: Vec<String>,
}

/// The reserved column names.
pub(crate) const OWN: [&str; 8] = ["row", "file", "start", "end", "tokens", "text", "vector", "vectors"];

/// An error if a field name is reserved or given twice.
pub(crate) fn check_fields(fields: &[String]) -> Result<(), Error> {
    for (i, name) in fields.iter().enumerate() {
        if OWN.contains(&name.as_str()) {
            let message = format!("field `{name}` cannot be copied: the output has a column of that name");
            return Err(Error::Fields(message));
        }
        if fields[..i].contains(name) {
            return Err(Error::Fields(format!("field `{name}` is given twice")));
        }
    }
    Ok(())
}

/// A row: a document or one of its passages.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) row: u64,
    pub(crate) file: Option<String>,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) tokens: u32,
    pub(crate) text: String,
    pub(crate) fields: Vec<Option<String>>,
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
        fields.extend(self.fields.iter().map(|name| Field::new(name, DataType::Utf8, true)));
        fields.push(if self.late {
            let each = Arc::new(Field::new("item", self.vector(), false));
            Field::new("vectors", DataType::LargeList(each), false)
        } else {
            Field::new("vector", self.vector(), false)
        });
        Arc::new(Schema::new(fields))
    }

    /// The columns that a schema has; `None` if it is not one of such a table.
    pub(crate) fn of(schema: &Schema) -> Option<Self> {
        let kind = |name: &str| schema.field_with_name(name).ok().map(Field::data_type);
        let width = match (kind("vector"), kind("vectors")) {
            (Some(DataType::FixedSizeList(_, width)), None) => *width,
            (None, Some(DataType::LargeList(each))) => match each.data_type() {
                DataType::FixedSizeList(_, width) => *width,
                _ => return None,
            },
            _ => return None,
        };
        let names = schema.fields().iter().map(|field| field.name().clone());
        let columns = Self {
            width: usize::try_from(width).ok()?,
            late: kind("vectors").is_some(),
            text: kind("text").is_some(),
            fields: names.filter(|name| !OWN.contains(&name.as_str())).collect(),
        };
        (columns.schema().fields() == schema.fields()).then_some(columns)
    }

    /// The rows of a batch with these columns.
    pub(crate) fn rows(&self, batch: &RecordBatch) -> Vec<Row> {
        let column = |name: &str| batch.column_by_name(name).expect("the batch has the columns of the schema");
        let number = |name: &str, i: usize| column(name).as_primitive::<UInt64Type>().value(i);
        let text = |name: &str, i: usize| {
            let texts = column(name).as_string::<i32>();
            (!texts.is_null(i)).then(|| texts.value(i).to_owned())
        };
        let vector = |i: usize| {
            let list =
                if self.late { column("vectors").as_list::<i64>().value(i) } else { Arc::clone(column("vector")) };
            let list = list.as_fixed_size_list();
            let each = if self.late { Arc::clone(list.values()) } else { list.value(i) };
            let (from, n) =
                if self.late { (list.offset() * self.width, list.len() * self.width) } else { (0, self.width) };
            each.as_primitive::<Float32Type>().values()[from..from + n].to_vec()
        };
        let row = |i: usize| Row {
            row: number("row", i),
            file: text("file", i),
            start: number("start", i),
            end: number("end", i),
            tokens: column("tokens").as_primitive::<UInt32Type>().value(i),
            text: if self.text { text("text", i).unwrap_or_default() } else { String::new() },
            fields: self.fields.iter().map(|name| text(name, i)).collect(),
            vector: vector(i),
        };
        (0..batch.num_rows()).map(row).collect()
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
        for i in 0..self.fields.len() {
            columns.push(Arc::new(StringArray::from_iter(rows.iter().map(|r| r.fields.get(i).cloned().flatten()))));
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
        RecordBatch::try_new(self.schema(), columns).expect("the columns match the schema and have equal lengths")
    }
}

/// Writes record batches to an Arrow file, atomically.
pub(crate) fn write(
    path: &Path,
    schema: &SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch, Error>>,
) -> Result<(), Error> {
    // An error of the input batches, as opposed to one of the output file.
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
                    return Err(std::io::Error::other("a shard cannot be read"));
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

/// A hash of the number of rows and of all columns of a batch.
pub(crate) fn checksum(batch: &RecordBatch) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(batch.num_rows() as u64).to_le_bytes());
    batch.columns().iter().for_each(|column| column_into(&mut hasher, column));
    hasher.finalize().to_hex().to_string()
}

fn column_into(hasher: &mut blake3::Hasher, column: &dyn Array) {
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    if let Some(nulls) = column.nulls().filter(|nulls| nulls.null_count() > 0) {
        part(&nulls.iter().map(u8::from).collect::<Vec<u8>>());
    }
    match column.data_type() {
        DataType::UInt64 => part(column.as_primitive::<UInt64Type>().values().inner().as_slice()),
        DataType::UInt32 => part(column.as_primitive::<UInt32Type>().values().inner().as_slice()),
        DataType::Float32 => part(column.as_primitive::<Float32Type>().values().inner().as_slice()),
        DataType::Utf8 => {
            let texts = column.as_string::<i32>();
            part(texts.offsets().inner().inner().as_slice());
            part(texts.values().as_slice());
        }
        DataType::FixedSizeList(..) => column_into(hasher, column.as_fixed_size_list().values()),
        DataType::LargeList(_) => {
            let list = column.as_list::<i64>();
            part(list.offsets().inner().inner().as_slice());
            column_into(hasher, list.values());
        }
        other => unreachable!("tables have no columns of {other}"),
    }
}
