//! A metadata value, and how it looks in a listing.

use std::fmt;

use crate::cursor::Cursor;
use crate::{Error, FromValue, ValueType};

/// A metadata value with its key, decoded only when it is asked for.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    pub(crate) file: &'a str,
    pub(crate) key: &'a str,
    /// The type of the value; of an array, that of its elements.
    pub(crate) element: ValueType,
    pub(crate) is_array: bool,
    /// The number of elements; 1 for values that are not arrays.
    pub(crate) count: usize,
    /// The value as it is stored; of an array, its elements.
    pub(crate) bytes: &'a [u8],
    /// The position in an array, if this is an element of one.
    pub(crate) index: Option<usize>,
}

/// The most elements of an array in a preview.
const ELEMENTS: usize = 6;

/// The most characters of a string in a preview, alone and in an array.
const CHARACTERS: usize = 64;
const CHARACTERS_IN_ARRAY: usize = 16;

impl<'a> Value<'a> {
    /// The key.
    pub fn key(&self) -> &'a str {
        self.key
    }

    /// The type of the value: [`ValueType::Array`] for any array.
    pub fn value_type(&self) -> ValueType {
        if self.is_array { ValueType::Array } else { self.element }
    }

    /// The type of the elements of an array; otherwise that of the value itself.
    pub fn element_type(&self) -> ValueType {
        self.element
    }

    /// The number of elements of an array; 1 for any other value.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Decodes the value. Errors if it is of another type, or does not fit.
    pub fn to<T: FromValue<'a>>(self) -> Result<T, Error> {
        T::from_value(self)
    }

    /// The elements of an array. Errors if the value is not one.
    pub fn elements(self) -> Result<impl ExactSizeIterator<Item = Value<'a>>, Error> {
        if self.is_array { Ok(Elements::of(self)) } else { Err(self.wrong("an array")) }
    }

    /// An error about this value, which names the file and the key.
    pub fn error(&self, message: impl fmt::Display) -> Error {
        let message = match self.index {
            Some(index) => format!("element {index}: {message}"),
            None => message.to_string(),
        };
        Error::key(self.file, self.key, message)
    }

    /// The value in a short line of text: long strings and arrays are cut, and control characters are escaped.
    pub fn preview(&self) -> String {
        if !self.is_array {
            return self.shown(CHARACTERS);
        }
        let first: Vec<String> =
            Elements::of(*self).take(ELEMENTS).map(|value| value.shown(CHARACTERS_IN_ARRAY)).collect();
        let more = if self.count > ELEMENTS { ", …" } else { "" };
        format!("[{}{more}]", first.join(", "))
    }

    /// The error that another type is wanted.
    pub(crate) fn wrong(&self, want: &str) -> Error {
        let array = if self.is_array { "an array of " } else { "" };
        self.error(format_args!("want {want}, found {array}{}", self.element))
    }

    /// A string's bytes, without the length.
    pub(crate) fn string(&self) -> &'a [u8] {
        self.bytes.get(8..).unwrap_or_default()
    }

    /// A value that is not an array, as text.
    fn shown(&self, characters: usize) -> String {
        let text = match self.element {
            ValueType::String => return quoted(self.string(), characters),
            ValueType::F32 => self.to::<f32>().map(|x| format!("{x:?}")),
            ValueType::F64 => self.to::<f64>().map(|x| format!("{x:?}")),
            ValueType::Bool => self.to::<bool>().map(|x| x.to_string()),
            _ => self.to::<i128>().map(|x| x.to_string()),
        };
        text.unwrap_or_else(|_| format!("{:?}", self.bytes))
    }
}

/// A string in quotes, cut behind some characters.
fn quoted(bytes: &[u8], characters: usize) -> String {
    // No character takes more than four bytes, so nothing that would be shown is cut off here.
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * characters)]);
    let mut rest = start.chars();
    let shown: String = rest.by_ref().take(characters).collect();
    let more = if rest.next().is_some() || bytes.len() > 4 * characters { "…" } else { "" };
    format!("{shown:?}{more}")
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.preview())
    }
}

/// The elements of an array, one after another.
pub(crate) struct Elements<'a> {
    array: Value<'a>,
    cursor: Cursor<'a>,
    next: usize,
}

impl<'a> Elements<'a> {
    pub(crate) fn of(array: Value<'a>) -> Self {
        Self { array, cursor: Cursor::new(array.bytes), next: 0 }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        if self.next == self.array.count {
            return None;
        }
        let index = Some(self.next);
        self.next += 1;
        // Reading the header has proved that all elements are there. They are not only if the mapped file has changed.
        let bytes = self.cursor.element(self.array.element).unwrap_or_default();
        Some(Value { is_array: false, count: 1, bytes, index, ..self.array })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.array.count - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Elements<'_> {}
