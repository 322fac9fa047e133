//! The metadata of a file: values by key, decoded when they are asked for.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;

use crate::{Error, FromValue, Value, ValueType};

/// The metadata of a file: entries of a key and a value.
///
/// The values stay in the mapped file until they are asked for, by type:
///
/// ```no_run
/// # fn main() -> Result<(), longreach_gguf::Error> {
/// let file = longreach_gguf::Gguf::open("model.gguf")?;
/// let metadata = file.metadata();
/// let architecture: &str = metadata.require("general.architecture")?;
/// let layers: usize = metadata.require(&format!("{architecture}.block_count"))?;
/// let base: Option<f32> = metadata.get(&format!("{architecture}.rope.freq_base"))?;
/// # Ok(()) }
/// ```
pub struct Metadata {
    pub(crate) file: String,
    pub(crate) bytes: Bytes,
    /// In the order of the file.
    pub(crate) entries: Vec<Entry>,
    /// The indices of the entries, sorted by key.
    pub(crate) order: Vec<usize>,
}

/// Where an entry's value lies in the file.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Box<str>,
    /// The type of the value; of an array, that of its elements.
    pub(crate) element: ValueType,
    pub(crate) is_array: bool,
    /// The number of elements; 1 for values that are not arrays.
    pub(crate) count: usize,
    /// The value's bytes: all that follows the type, or, in an array, the number of elements.
    pub(crate) range: Range<usize>,
}

impl Metadata {
    /// The value of a key; `None` if the key is absent. Errors if the value has another type.
    ///
    /// [`FromValue`] lists the types. Integers of any width are converted if the value fits.
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, Error> {
        self.value(key).map(|value| value.to()).transpose()
    }

    /// The value of a key. Errors if the key is absent, or the value has another type.
    pub fn require<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, Error> {
        self.get(key)?.ok_or_else(|| Error::key(&self.file, key, "is missing"))
    }

    /// The value of a key, whatever its type.
    pub fn value(&self, key: &str) -> Option<Value<'_>> {
        let at = self.order.binary_search_by(|i| (*self.entries[*i].key).cmp(key)).ok()?;
        Some(self.value_of(&self.entries[self.order[at]]))
    }

    /// All entries, in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Value<'_>> {
        self.entries.iter().map(|entry| self.value_of(entry))
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The name of the file, as errors have it.
    pub fn file(&self) -> &str {
        &self.file
    }

    fn value_of<'a>(&'a self, entry: &'a Entry) -> Value<'a> {
        let Entry { key, element, is_array, count, range } = entry;
        let bytes = &self.bytes[range.clone()];
        Value { file: &self.file, key, element: *element, is_array: *is_array, count: *count, bytes, index: None }
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|value| (value.key(), value))).finish()
    }
}
