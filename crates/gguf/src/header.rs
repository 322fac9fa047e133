//! The header of a file to be written, and how it is divided among the parts of a split file.

use std::collections::{HashMap, HashSet};
use std::io::Write;

use crate::parse::{ALIGNMENT, DEFAULT_ALIGNMENT, LARGEST_ALIGNMENT, LONGEST_KEY, LONGEST_NAME, valid_alignment};
use crate::split::{COUNT, NUMBER, TENSORS};
use crate::to_value::string;
use crate::{Error, Metadata, TensorType, ToValue, ValueType, Writer};

/// The version of the format that is written.
const VERSION: u32 = 3;

/// The header of a file to be written: the metadata, and the names, shapes and types of the tensors.
#[derive(Clone, Debug, Default)]
pub struct Header {
    /// Keys and encoded values, in the order in which they are written.
    entries: Vec<(String, Vec<u8>)>,
    /// Where the keys are in `entries`.
    keys: HashMap<String, usize>,
    tensors: Vec<Declared>,
    names: HashSet<String>,
    /// At least the bytes of all tensors, whatever the alignment: below 2⁶³, so that no sum of sizes overflows.
    bound: u64,
}

/// A tensor of a file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Declared {
    /// The name.
    pub name: String,
    /// The sizes of the axes, outermost first: a matrix is `[rows, columns]`.
    pub shape: Vec<usize>,
    /// The type of the elements.
    pub tensor_type: TensorType,
    /// The size of the data.
    pub bytes: u64,
}

impl Header {
    /// A header without metadata and tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a metadata value. A key that is there keeps its place, and its value is replaced.
    ///
    /// The tensors' data are aligned by `general.alignment`, or by 32 if that is not set. Errors if the key is empty
    /// or too long, if that alignment is not a u32 and a power of two up to 2²⁰, or if the key is one of those that
    /// [`Header::split`] sets.
    pub fn set(&mut self, key: &str, value: impl ToValue) -> Result<(), Error> {
        let wrong = |message: String| Error::content(format!("key `{}`: {message}", key.escape_debug()));
        if !(1..=LONGEST_KEY).contains(&key.len()) {
            return Err(wrong(format!("has {} bytes, want 1 to {LONGEST_KEY}", key.len())));
        }
        if [NUMBER, COUNT, TENSORS].contains(&key) {
            return Err(wrong("is set by splitting alone".into()));
        }
        let mut encoded = Vec::new();
        value.encode(&mut encoded);
        if key == ALIGNMENT && !decoded_alignment(&encoded).is_some_and(valid_alignment) {
            return Err(wrong(format!("want a u32 that is a power of two up to {LARGEST_ALIGNMENT}")));
        }
        self.put(key, encoded);
        Ok(())
    }

    /// Sets all metadata of another file, but not those that say which part of a split file it is. Errors as
    /// [`Header::set`] does.
    pub fn set_all(&mut self, metadata: &Metadata) -> Result<(), Error> {
        let others = metadata.iter().filter(|value| ![NUMBER, COUNT, TENSORS].contains(&value.key()));
        others.into_iter().try_for_each(|value| self.set(value.key(), value))
    }

    /// Removes a metadata value, if it is there.
    pub fn remove(&mut self, key: &str) {
        if let Some(at) = self.keys.remove(key) {
            self.entries.remove(at);
            self.keys.values_mut().filter(|other| **other > at).for_each(|other| *other -= 1);
        }
    }

    /// Declares the next tensor: tensors are written in the order in which they are declared.
    ///
    /// `shape` has the innermost axis last. Errors if the name is empty, longer than 63 bytes or already declared, if
    /// there are not 1 to 4 axes, if one is 0, or if a row is not a whole number of the type's blocks.
    pub fn declare(&mut self, name: &str, shape: &[usize], tensor_type: TensorType) -> Result<(), Error> {
        let wrong = |message: String| Error::content(format!("tensor `{}`: {message}", name.escape_debug()));
        if !(1..=LONGEST_NAME).contains(&name.len()) {
            return Err(wrong(format!("its name has {} bytes, want 1 to {LONGEST_NAME}", name.len())));
        }
        let bytes = tensor_type.size(shape).map_err(wrong)? as u64;
        let bound = bytes
            .checked_next_multiple_of(u64::from(LARGEST_ALIGNMENT))
            .and_then(|padded| self.bound.checked_add(padded))
            .filter(|bound| *bound < 1 << 63)
            .ok_or_else(|| wrong("with it, the tensors have 2^63 bytes or more".into()))?;
        if !self.names.insert(name.to_owned()) {
            return Err(wrong("is declared twice".into()));
        }
        self.bound = bound;
        self.tensors.push(Declared { name: name.to_owned(), shape: shape.to_vec(), tensor_type, bytes });
        Ok(())
    }

    /// The declared tensors, in order.
    pub fn tensors(&self) -> &[Declared] {
        &self.tensors
    }

    /// The size of the file.
    pub fn file_bytes(&self) -> u64 {
        let data: u64 = self.tensors.iter().map(|tensor| self.padded(tensor.bytes)).sum();
        self.padded(self.unpadded()) + data
    }

    /// Divides the file into parts of at most `limit` bytes; a part with a single tensor may be larger.
    ///
    /// Each part is written to a file of its own, whose name [`split_path`](crate::split_path) gives. The first has
    /// the metadata, and tensors stay in order. If there is one part only, it is the header itself, which does not say
    /// that it is a part.
    ///
    /// Errors if there are more than 65,535 parts or 2³¹ tensors.
    pub fn split(&self, limit: u64) -> Result<Vec<Header>, Error> {
        if self.file_bytes() <= limit {
            return Ok(vec![self.clone()]);
        }
        let mut rest = Header { bound: self.bound, ..Header::default() };
        let mut begun = Header { entries: self.entries.clone(), keys: self.keys.clone(), ..rest.clone() };
        if let Some(alignment) = self.entry(ALIGNMENT) {
            rest.put(ALIGNMENT, alignment.to_vec());
        }
        // Their sizes do not depend on their values, which are known only at the end.
        [&mut begun, &mut rest].into_iter().for_each(|header| header.put_position(0, 0, 0));
        let (mut parts, mut head, mut data) = (Vec::new(), begun.unpadded(), 0);
        for tensor in &self.tensors {
            let (info, bytes) = (tensor.info_bytes(), self.padded(tensor.bytes));
            if !begun.tensors.is_empty() && self.padded(head + info) + data + bytes > limit {
                parts.push(std::mem::replace(&mut begun, rest.clone()));
                (head, data) = (begun.unpadded(), 0);
            }
            begun.names.insert(tensor.name.clone());
            begun.tensors.push(tensor.clone());
            (head, data) = (head + info, data + bytes);
        }
        if parts.is_empty() {
            return Ok(vec![self.clone()]);
        }
        parts.push(begun);
        let too_many = |what: &str, n: usize| Error::content(format!("a split file cannot have {n} {what}"));
        let count = u16::try_from(parts.len()).map_err(|_| too_many("parts", parts.len()))?;
        let tensors = i32::try_from(self.tensors.len()).map_err(|_| too_many("tensors", self.tensors.len()))?;
        (0..count).zip(&mut parts).for_each(|(number, part)| part.put_position(number, count, tensors));
        Ok(parts)
    }

    /// Writes the header, and returns the writer for the tensors' data. Errors if the output cannot be written.
    pub fn write_to<W: Write>(self, out: W) -> Result<Writer<W>, Error> {
        let header = self.encode();
        let alignment = self.alignment();
        Writer::new(out, &header, self.tensors, alignment)
    }

    /// The header as it is stored, with the padding behind it.
    fn encode(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
            string(key.as_bytes(), &mut out);
            out.extend(value);
        }
        let mut offset: u64 = 0;
        for Declared { name, shape, tensor_type, bytes } in &self.tensors {
            string(name.as_bytes(), &mut out);
            out.extend((shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|size| out.extend((*size as u64).to_le_bytes()));
            out.extend(tensor_type.number().to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += self.padded(*bytes);
        }
        let padded = out.len().next_multiple_of(self.alignment());
        out.resize(padded, 0);
        out
    }

    /// The size of the header without the padding.
    fn unpadded(&self) -> u64 {
        let entries: usize = self.entries.iter().map(|(key, value)| 8 + key.len() + value.len()).sum();
        let tensors: u64 = self.tensors.iter().map(Declared::info_bytes).sum();
        24 + entries as u64 + tensors
    }

    fn padded(&self, bytes: u64) -> u64 {
        bytes.next_multiple_of(self.alignment() as u64)
    }

    fn alignment(&self) -> usize {
        self.entry(ALIGNMENT).and_then(decoded_alignment).unwrap_or(DEFAULT_ALIGNMENT) as usize
    }

    fn entry(&self, key: &str) -> Option<&[u8]> {
        self.keys.get(key).map(|at| &self.entries[*at].1[..])
    }

    fn put(&mut self, key: &str, encoded: Vec<u8>) {
        match self.keys.get(key) {
            Some(at) => self.entries[*at].1 = encoded,
            None => {
                self.keys.insert(key.to_owned(), self.entries.len());
                self.entries.push((key.to_owned(), encoded));
            }
        }
    }

    /// Says which part of how many this is, and how many tensors all have; in the types that llama.cpp wants.
    fn put_position(&mut self, number: u16, count: u16, tensors: i32) {
        let mut put = |key: &str, value: &dyn ToValue| {
            let mut encoded = Vec::new();
            value.encode(&mut encoded);
            self.put(key, encoded);
        };
        put(NUMBER, &number);
        put(COUNT, &count);
        put(TENSORS, &tensors);
    }
}

impl Declared {
    /// The size of the tensor's entry in the header.
    fn info_bytes(&self) -> u64 {
        (8 + self.name.len() + 4 + 8 * self.shape.len() + 4 + 8) as u64
    }
}

/// The alignment in an encoded value; `None` if that is not a u32.
fn decoded_alignment(encoded: &[u8]) -> Option<u32> {
    let (number, value) = encoded.split_first_chunk()?;
    let is_u32 = u32::from_le_bytes(*number) == ValueType::U32.number();
    value.try_into().ok().filter(|_| is_u32).map(u32::from_le_bytes)
}
