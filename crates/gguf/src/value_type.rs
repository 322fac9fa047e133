//! The types of metadata values.

use std::fmt;

/// The type of a metadata value, or of the elements of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// An unsigned 8-bit integer.
    U8,
    /// A signed 8-bit integer.
    I8,
    /// An unsigned 16-bit integer.
    U16,
    /// A signed 16-bit integer.
    I16,
    /// An unsigned 32-bit integer.
    U32,
    /// A signed 32-bit integer.
    I32,
    /// A 32-bit float.
    F32,
    /// A byte that is 0 or 1.
    Bool,
    /// A length and as many bytes, which are usually UTF-8.
    String,
    /// Any number of values of one of the other types.
    Array,
    /// An unsigned 64-bit integer.
    U64,
    /// A signed 64-bit integer.
    I64,
    /// A 64-bit float.
    F64,
}

use ValueType::*;

/// All types, by their numbers in files, with name and bytes; 0 bytes if the size varies.
const TYPES: [(ValueType, &str, usize); 13] = [
    (U8, "u8", 1),
    (I8, "i8", 1),
    (U16, "u16", 2),
    (I16, "i16", 2),
    (U32, "u32", 4),
    (I32, "i32", 4),
    (F32, "f32", 4),
    (Bool, "bool", 1),
    (String, "string", 0),
    (Array, "array", 0),
    (U64, "u64", 8),
    (I64, "i64", 8),
    (F64, "f64", 8),
];

impl ValueType {
    /// The number of the type in files.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The name of the type, such as `u32` or `string`.
    pub fn name(self) -> &'static str {
        TYPES[self as usize].1
    }

    /// The type with this number in files.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Some(TYPES.get(usize::try_from(number).ok()?)?.0)
    }

    /// The bytes of a value; `None` for strings and arrays, whose sizes vary.
    pub(crate) fn bytes(self) -> Option<usize> {
        Some(TYPES[self as usize].2).filter(|bytes| *bytes > 0)
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
