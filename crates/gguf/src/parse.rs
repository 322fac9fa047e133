//! Reading the header of a file: its metadata, and the names, shapes, types and places of its tensors.
//!
//! The header is not trusted. Numbers in it are compared with the bytes that are there before they are used, memory is
//! taken for what has been read only, and values are skipped, not decoded.

use bytes::Bytes;

use crate::cursor::Cursor;
use crate::metadata::Entry;
use crate::tensor::Info;
use crate::{Error, Metadata, TensorType, ValueType, tensor};

/// What a header says.
pub(crate) struct Parsed {
    pub(crate) version: u32,
    pub(crate) metadata: Metadata,
    /// In the order of the file.
    pub(crate) tensors: Vec<Info>,
    /// What the beginning of the data is a multiple of.
    pub(crate) alignment: usize,
    /// Where the list of tensors ends.
    pub(crate) end: usize,
}

/// The key of the alignment.
pub(crate) const ALIGNMENT: &str = "general.alignment";

/// The alignment of a file that does not say it.
pub(crate) const DEFAULT_ALIGNMENT: u32 = 32;

/// The largest alignment that is read or written.
pub(crate) const LARGEST_ALIGNMENT: u32 = 1 << 20;

/// The most bytes of a key.
pub(crate) const LONGEST_KEY: usize = 1 << 16;

/// The most bytes of a tensor's name.
pub(crate) const LONGEST_NAME: usize = 63;

/// The fewest bytes of an entry, a tensor and a string in a header.
const ENTRY: u64 = 13;
const TENSOR: u64 = 24;
const STRING: u64 = 8;

/// Reads the header of a file and checks that the data of its tensors are there. Errors refer to it as `file`.
pub(crate) fn parse(file: &str, bytes: Bytes) -> Result<Parsed, Error> {
    let in_file = |message| Error::file(file, message);
    let mut cursor = Cursor::new(&bytes);
    let version = version(&mut cursor).map_err(in_file)?;
    let tensors = cursor.count("tensors", TENSOR).map_err(in_file)?;
    let count = cursor.count("metadata entries", ENTRY).map_err(in_file)?;
    let mut entries = Vec::new();
    for index in 0..count {
        entries.push(entry(file, &mut cursor, index)?);
    }
    let order = sorted(entries.len(), |i| &entries[i].key).map_err(|key| Error::key(file, key, "occurs twice"))?;
    let mut infos = Vec::new();
    for index in 0..tensors {
        infos.push(info(file, &mut cursor, index)?);
    }
    sorted(infos.len(), |i| &infos[i].name).map_err(|name| Error::tensor(file, name, "occurs twice"))?;
    let end = cursor.at();
    let metadata = Metadata { file: file.to_owned(), bytes: bytes.clone(), entries, order };
    let alignment = alignment(&metadata)?;
    tensor::place(file, &mut infos, end, alignment, bytes.len())?;
    Ok(Parsed { version, metadata, tensors: infos, alignment, end })
}

/// Reads what every file begins with.
fn version(cursor: &mut Cursor<'_>) -> Result<u32, String> {
    let magic: [u8; 4] = cursor.array()?;
    if &magic != b"GGUF" {
        return Err(format!("not a GGUF file: begins with \"{}\", want \"GGUF\"", magic.escape_ascii()));
    }
    match cursor.u32()? {
        version @ 2..=3 => Ok(version),
        version if matches!(version.swap_bytes(), 1..=3) => Err(format!(
            "a big-endian GGUF file (its version reads as {version:#x}), want a little-endian one: \
             convert it with `gguf-convert-endian`"
        )),
        version => Err(format!("GGUF version {version}, want 2 or 3")),
    }
}

/// Reads an entry, but only skips its value.
fn entry(file: &str, cursor: &mut Cursor<'_>, index: usize) -> Result<Entry, Error> {
    let key = text(cursor, LONGEST_KEY)
        .map_err(|message| Error::file(file, format!("the key of metadata entry {index}: {message}")))?;
    let (element, is_array, count, range) = skip_value(cursor).map_err(|message| Error::key(file, key, message))?;
    Ok(Entry { key: key.into(), element, is_array, count, range })
}

/// Reads a value's type and skips the value: returns the type of its elements, whether it is an array, the number of
/// elements, and where they are.
fn skip_value(cursor: &mut Cursor<'_>) -> Result<(ValueType, bool, usize, std::ops::Range<usize>), String> {
    let of = |number| ValueType::from_number(number).ok_or_else(|| format!("has the unknown value type {number}"));
    let own = of(cursor.u32()?)?;
    let is_array = own == ValueType::Array;
    let element = if is_array { of(cursor.u32()?)? } else { own };
    if element == ValueType::Array && is_array {
        return Err("is an array of arrays, which is not supported".into());
    }
    let size = element.bytes();
    let count = if is_array { cursor.count("elements", size.map_or(STRING, |n| n as u64))? } else { 1 };
    let start = cursor.at();
    match size {
        // No overflow: there is one element, or the file has this many of this size.
        Some(size) => drop(cursor.take((count * size) as u64)?),
        None => (0..count).try_for_each(|_| cursor.string().map(drop))?,
    }
    Ok((element, is_array, count, start..cursor.at()))
}

/// Reads a tensor's name, shape, type and offset.
fn info(file: &str, cursor: &mut Cursor<'_>, index: usize) -> Result<Info, Error> {
    let name = text(cursor, LONGEST_NAME)
        .map_err(|message| Error::file(file, format!("the name of tensor {index}: {message}")))?;
    let wrong = |message: String| Error::tensor(file, name, message);
    let axes = cursor.u32().map_err(wrong)?;
    let axes = usize::try_from(axes).unwrap_or(usize::MAX);
    if !(1..=tensor::MOST_AXES).contains(&axes) {
        return Err(wrong(format!("has {axes} axes, want 1 to {}", tensor::MOST_AXES)));
    }
    let mut sizes = [0; tensor::MOST_AXES];
    // Files have the innermost axis first.
    for size in sizes[..axes].iter_mut().rev() {
        let stored = cursor.u64().map_err(wrong)?;
        *size = usize::try_from(stored).map_err(|_| wrong(format!("has an axis of {stored} elements")))?;
    }
    let tensor_type = TensorType::find(cursor.u32().map_err(wrong)?).map_err(wrong)?;
    let bytes = tensor_type.size(&sizes[..axes]).map_err(wrong)?;
    let offset = cursor.u64().map_err(wrong)?;
    let start = usize::try_from(offset).map_err(|_| wrong(format!("begins at the impossible offset {offset}")))?;
    Ok(Info { name: name.into(), axes, sizes, tensor_type, start, bytes, part: 0 })
}

/// A key or a name: 1 to `longest` bytes of UTF-8.
fn text<'a>(cursor: &mut Cursor<'a>, longest: usize) -> Result<&'a str, String> {
    let length = cursor.u64()?;
    if !usize::try_from(length).is_ok_and(|n| (1..=longest).contains(&n)) {
        return Err(format!("has {length} bytes, want 1 to {longest}"));
    }
    let bytes = cursor.take(length)?;
    std::str::from_utf8(bytes).map_err(|e| {
        let start = &bytes[..bytes.len().min(LONGEST_NAME)];
        format!("\"{}\" is not UTF-8: {e}", start.escape_ascii())
    })
}

/// The indices 0 to `n`, sorted by name. The error is a name that is there twice.
pub(crate) fn sorted<'a>(n: usize, name: impl Fn(usize) -> &'a str) -> Result<Vec<usize>, &'a str> {
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_unstable_by_key(|i| name(*i));
    match order.windows(2).find(|pair| name(pair[0]) == name(pair[1])) {
        Some(pair) => Err(name(pair[0])),
        None => Ok(order),
    }
}

/// What offsets in the data are multiples of.
fn alignment(metadata: &Metadata) -> Result<usize, Error> {
    let Some(value) = metadata.value(ALIGNMENT) else { return Ok(DEFAULT_ALIGNMENT as usize) };
    if value.value_type() != ValueType::U32 {
        return Err(value.wrong("u32"));
    }
    let alignment: u32 = value.to()?;
    if !valid_alignment(alignment) {
        return Err(value.error(format_args!("want a power of two up to {LARGEST_ALIGNMENT}, found {alignment}")));
    }
    Ok(alignment as usize)
}

/// Whether a number may be an alignment.
pub(crate) fn valid_alignment(alignment: u32) -> bool {
    alignment.is_power_of_two() && alignment <= LARGEST_ALIGNMENT
}
