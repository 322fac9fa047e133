//! A reader for Arrow files that trusts nothing: every length, offset and type is checked before use.
//!
//! The reader of the arrow crate panics on some damaged files. This one supports only the types that [`crate::table`] writes, uncompressed and without
//! dictionaries. Columns point into the memory map of the file and are not copied.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::types::{ArrowPrimitiveType, Float32Type, UInt32Type, UInt64Type};
use arrow_array::{ArrayRef, FixedSizeListArray, LargeListArray, PrimitiveArray, RecordBatch, StringArray};
use arrow_buffer::{ArrowNativeType, BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::reader::read_footer_length;
use arrow_ipc::{Block, FieldNode, root_as_footer, root_as_message};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use longreach_simd::file::Mapped;

use crate::Error;

/// A memory-mapped table.
pub(crate) struct Table {
    path: PathBuf,
    buffer: Buffer,
    /// Byte range of each batch in the file, and the length of its header.
    batches: Vec<(Range<usize>, usize)>,
    schema: Schema,
}

impl Table {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
        let mapped = Mapped::new(&file).map_err(|e| Error::io(path, e))?;
        mapped.prefer_huge_pages();
        let buffer = Buffer::from(Bytes::from_owner(mapped));
        let (batches, schema) = footer(&buffer).map_err(|message| damaged(path, &message))?;
        Ok(Self { path: path.to_owned(), buffer, batches, schema })
    }

    /// A value of the metadata of the schema.
    pub(crate) fn metadata(&self, name: &str) -> Option<&str> {
        self.schema.metadata.get(name).map(|value| value.as_ref())
    }

    /// The schema that the file says it has.
    pub(crate) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The record batches; an error if the columns differ from those of `schema`.
    pub(crate) fn batches(
        &self,
        schema: &SchemaRef,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, Error>>, Error> {
        if self.schema.fields() != schema.fields() {
            let names = |schema: &Schema| {
                let each = |f: &Arc<Field>| format!("{} {}", f.name(), f.data_type());
                schema.fields().iter().map(each).collect::<Vec<_>>().join(", ")
            };
            let message = format!("its columns are {}; want {}", names(&self.schema), names(schema));
            return Err(Error::file(&self.path, message));
        }
        Ok(self.batches.iter().map(|(range, head)| {
            let part = self.buffer.slice_with_length(range.start, range.len());
            batch(&part, *head, schema).map_err(|message| damaged(&self.path, &message))
        }))
    }
}

fn damaged(path: &Path, message: &str) -> Error {
    Error::file(path, format!("damaged: {message}"))
}

/// Parses the footer of a file: the positions of its batches, and its schema.
#[allow(clippy::type_complexity, reason = "a pair that its single caller destructures")]
fn footer(buffer: &Buffer) -> Result<(Vec<(Range<usize>, usize)>, Schema), String> {
    let length = buffer.len();
    let tail: Option<[u8; 10]> = buffer.get(length.saturating_sub(10)..).and_then(|tail| tail.try_into().ok());
    let n = read_footer_length(tail.ok_or("it is truncated")?).map_err(|e| e.to_string())?;
    let from = length.checked_sub(10).and_then(|end| end.checked_sub(n)).ok_or("it is truncated")?;
    let footer = root_as_footer(&buffer[from..length - 10]).map_err(|e| e.to_string())?;
    let schema = footer.schema().ok_or("it has no schema")?;
    let schema = try_fb_to_schema(schema).map_err(|e| e.to_string())?;
    if footer.dictionaries().is_some_and(|d| !d.is_empty()) {
        return Err("it has dictionaries".into());
    }
    let place = |block: &Block| {
        let at = usize::try_from(block.offset()).ok()?;
        let (head, body) = (usize::try_from(block.metaDataLength()).ok()?, usize::try_from(block.bodyLength()).ok()?);
        let end = at.checked_add(head)?.checked_add(body)?;
        (end <= from).then_some((at..end, head))
    };
    let blocks = footer.recordBatches().into_iter().flatten();
    let places = blocks.map(|block| place(block).ok_or("a batch lies outside the file")).collect::<Result<_, _>>()?;
    Ok((places, schema))
}

/// Decodes a batch; the first `head` bytes are its header, the rest holds the columns.
fn batch(part: &Buffer, head: usize, schema: &SchemaRef) -> Result<RecordBatch, String> {
    // A continuation marker of four bytes and the length of the message.
    let mark: Option<[u8; 4]> = part.get(..4).and_then(|mark| mark.try_into().ok());
    let length: Option<[u8; 4]> = part.get(4..8).and_then(|length| length.try_into().ok());
    let (Some([0xff, 0xff, 0xff, 0xff]), Some(length)) = (mark, length) else {
        return Err("a batch without a continuation marker".into());
    };
    let length = usize::try_from(i32::from_le_bytes(length)).map_err(|_| "a batch of a negative length")?;
    let end = length.checked_add(8).filter(|end| *end <= head).ok_or("a batch header longer than its block")?;
    let message = root_as_message(&part[8..end]).map_err(|e| e.to_string())?;
    let about = message.header_as_record_batch().ok_or("a message that is not a record batch")?;
    if about.compression().is_some() || about.variadicBufferCounts().is_some_and(|counts| !counts.is_empty()) {
        return Err("a batch that is compressed or has views".into());
    }
    let rows = usize::try_from(about.length()).map_err(|_| "a batch of a negative length")?;
    let mut columns = Columns {
        body: part.slice_with_length(head, part.len() - head),
        nodes: about.nodes().into_iter().flatten().copied().collect(),
        buffers: about.buffers().into_iter().flatten().map(|b| (b.offset(), b.length())).collect(),
        node: 0,
        buffer: 0,
    };
    let arrays =
        schema.fields().iter().map(|field| columns.column(field, Some(rows))).collect::<Result<Vec<_>, _>>()?;
    if columns.node != columns.nodes.len() || columns.buffer != columns.buffers.len() {
        return Err("a batch with more columns than the schema".into());
    }
    RecordBatch::try_new(Arc::clone(schema), arrays).map_err(|e| e.to_string())
}

/// Cursor over the columns of a batch.
struct Columns {
    body: Buffer,
    nodes: Vec<FieldNode>,
    buffers: Vec<(i64, i64)>,
    node: usize,
    buffer: usize,
}

impl Columns {
    /// The next column; an error unless it has `rows` elements, if given.
    fn column(&mut self, field: &Field, rows: Option<usize>) -> Result<ArrayRef, String> {
        let node = self.nodes.get(self.node).ok_or("a batch without all its columns")?;
        let n = usize::try_from(node.length()).map_err(|_| "a column of a negative length")?;
        let nulls = node.null_count();
        self.node += 1;
        if rows.is_some_and(|rows| rows != n) {
            return Err(format!("column `{}` has {n} elements, want {}", field.name(), rows.unwrap_or(0)));
        }
        let nulls = self.nulls(n, nulls)?;
        if nulls.is_some() && !field.is_nullable() {
            return Err(format!("column `{}` has nulls but is not nullable", field.name()));
        }
        let said = |e: arrow_schema::ArrowError| e.to_string();
        Ok(match field.data_type() {
            DataType::UInt64 => Arc::new(self.numbers::<UInt64Type>(n, nulls)?),
            DataType::UInt32 => Arc::new(self.numbers::<UInt32Type>(n, nulls)?),
            DataType::Float32 => Arc::new(self.numbers::<Float32Type>(n, nulls)?),
            DataType::Utf8 => {
                let offsets = self.offsets::<i32>(n)?;
                let bytes = self.bytes()?;
                Arc::new(StringArray::try_new(within(offsets, bytes.len())?, bytes, nulls).map_err(said)?)
            }
            DataType::FixedSizeList(item, width) => {
                let each = usize::try_from(*width).map_err(|_| "vectors of a negative width")?;
                let all = n.checked_mul(each).filter(|_| each > 0).ok_or("vectors of width 0")?;
                let values = self.column(item, Some(all))?;
                Arc::new(FixedSizeListArray::try_new(Arc::clone(item), *width, values, nulls).map_err(said)?)
            }
            DataType::LargeList(item) => {
                let offsets = self.offsets::<i64>(n)?;
                let values = self.column(item, None)?;
                let offsets = within(offsets, values.len())?;
                Arc::new(LargeListArray::try_new(Arc::clone(item), offsets, values, nulls).map_err(said)?)
            }
            other => return Err(format!("column `{}` has the unsupported type {other}", field.name())),
        })
    }

    /// The bytes of the next buffer.
    fn bytes(&mut self) -> Result<Buffer, String> {
        let (offset, length) = *self.buffers.get(self.buffer).ok_or("a batch without all its columns")?;
        self.buffer += 1;
        let place = usize::try_from(offset).ok().zip(usize::try_from(length).ok());
        let place = place.filter(|(at, n)| at.checked_add(*n).is_some_and(|end| end <= self.body.len()));
        let (at, n) = place.ok_or("a column lies outside its batch")?;
        Ok(self.body.slice_with_length(at, n))
    }

    /// The next buffer, as `n` elements.
    fn elements<T: ArrowNativeType>(&mut self, n: usize) -> Result<ScalarBuffer<T>, String> {
        let bytes = self.bytes()?;
        let need = n.checked_mul(size_of::<T>()).filter(|need| *need <= bytes.len());
        let need = need.ok_or("a column shorter than its length")?;
        if bytes.as_ptr().align_offset(align_of::<T>()) != 0 {
            return Err("a misaligned column".into());
        }
        Ok(ScalarBuffer::from(bytes.slice_with_length(0, need)))
    }

    fn numbers<T: ArrowPrimitiveType>(
        &mut self,
        n: usize,
        nulls: Option<NullBuffer>,
    ) -> Result<PrimitiveArray<T>, String> {
        PrimitiveArray::try_new(self.elements(n)?, nulls).map_err(|e| e.to_string())
    }

    /// The validity bitmap of `n` elements; `None` if all are valid.
    fn nulls(&mut self, n: usize, missing: i64) -> Result<Option<NullBuffer>, String> {
        let bits = self.bytes()?;
        if missing == 0 {
            return Ok(None);
        }
        if bits.len() < n.div_ceil(8) {
            return Err("a column shorter than its length".into());
        }
        Ok(Some(NullBuffer::new(BooleanBuffer::new(bits, 0, n))))
    }

    /// The offsets of `n` elements; the buffer may be empty if `n` is 0.
    fn offsets<T: ArrowNativeType>(&mut self, n: usize) -> Result<ScalarBuffer<T>, String> {
        if n == 0 {
            self.bytes()?;
            return Ok(ScalarBuffer::from(vec![T::default()]));
        }
        self.elements(n.checked_add(1).ok_or("a column of too many elements")?)
    }
}

/// Checks that offsets are not negative, ascend, and end within `length`.
fn within<T: ArrowNativeType>(bounds: ScalarBuffer<T>, length: usize) -> Result<OffsetBuffer<T>, String> {
    let ordered = bounds.first().is_some_and(|first| *first >= T::default()) && bounds.is_sorted();
    let last = bounds.last().and_then(|last| last.to_usize()).filter(|last| *last <= length);
    if !ordered || last.is_none() {
        return Err("an element lies outside its column".into());
    }
    Ok(OffsetBuffer::new(bounds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Columns as Kind, Row, checksum, write};

    /// Bypasses the checksum, which would reject most damaged files before the reader sees them.
    #[test]
    fn whatever_the_bytes_are_nothing_panics() {
        let at = tempfile::tempdir().expect("a directory");
        let row = |i: u64| Row {
            row: i,
            file: i.is_multiple_of(2).then(|| "a.txt".to_owned()),
            start: i,
            end: i + 5,
            tokens: 2,
            text: format!("text \u{e9} {i}"),
            fields: vec![(i != 1).then(|| i.to_string())],
            vector: vec![i as f32; 6],
        };
        let rows: Vec<Row> = (0..4).map(row).collect();
        for late in [false, true] {
            let kind = Kind { width: if late { 3 } else { 6 }, late, text: true, fields: vec!["id".into()] };
            let (path, schema, batch) = (at.path().join("a.arrow"), kind.schema(), kind.batch(&rows));
            write(&path, &schema, [Ok(batch.clone()), Ok(kind.batch(&[])), Ok(batch.clone())].into_iter())
                .expect("written");
            let read = || -> Result<Vec<RecordBatch>, Error> { Table::open(&path)?.batches(&schema)?.collect() };
            let whole = read().expect("what was written");
            assert_eq!(whole, [batch.clone(), kind.batch(&[]), batch]);
            let bytes = std::fs::read(&path).expect("a file");
            let flips = [0x01, 0x10, 0x55, 0x7f, 0x80, 0xff];
            let flipped = (0..bytes.len()).flat_map(|i| flips.map(|with| (i, with)));
            let mut refused = 0;
            for (i, with) in flipped {
                let mut damaged = bytes.clone();
                damaged[i] ^= with;
                std::fs::write(&path, damaged).expect("written");
                match read() {
                    Ok(batches) => batches.iter().for_each(|batch| assert_eq!(checksum(batch).len(), 64)),
                    Err(e) => {
                        refused += 1;
                        assert!(e.to_string().contains("a.arrow"), "{e}");
                    }
                }
            }
            assert!(refused > 100, "{refused}");
            // Numbers of every size in every place.
            for i in (0..bytes.len() - 8).step_by(4) {
                for number in [i64::MIN, -1, 1 << 31, 1 << 40, i64::MAX] {
                    let mut damaged = bytes.clone();
                    damaged[i..i + 8].copy_from_slice(&number.to_le_bytes());
                    std::fs::write(&path, damaged).expect("written");
                    if let Ok(batches) = read() {
                        batches.iter().for_each(|batch| assert_eq!(checksum(batch).len(), 64));
                    }
                }
            }
        }
    }
}
