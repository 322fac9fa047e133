//! The types that can be written as metadata values.

use crate::{Value, ValueType};

/// A type that can be written as a metadata value.
///
/// These are: integers and floats of 8 to 64 bits and `bool`, as values of just that type; `&str`, [`String`] and
/// [`ByteString`]; slices, arrays and vectors of each of these; and a [`Value`] of another file.
pub trait ToValue {
    /// Appends the value as it is stored: the number of its type, then the value.
    fn encode(&self, out: &mut Vec<u8>);
}

/// A string that need not be UTF-8, such as the text of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteString<'a>(pub &'a [u8]);

/// Implements the trait for a type, and for sequences of it: `$encode` appends a value without its type.
macro_rules! values {
    ($($type:ty, $number:ident, $encode:expr;)*) => { $(
        impl ToValue for $type {
            fn encode(&self, out: &mut Vec<u8>) {
                number(ValueType::$number, out);
                $encode(self, out);
            }
        }

        impl ToValue for &[$type] {
            fn encode(&self, out: &mut Vec<u8>) {
                number(ValueType::Array, out);
                number(ValueType::$number, out);
                length(self.len(), out);
                self.iter().for_each(|value| $encode(value, out));
            }
        }

        impl<const N: usize> ToValue for [$type; N] {
            fn encode(&self, out: &mut Vec<u8>) {
                (&self[..]).encode(out);
            }
        }

        impl ToValue for Vec<$type> {
            fn encode(&self, out: &mut Vec<u8>) {
                (&self[..]).encode(out);
            }
        }

        impl ToValue for &Vec<$type> {
            fn encode(&self, out: &mut Vec<u8>) {
                (&self[..]).encode(out);
            }
        }
    )* };
}

values! {
    u8, U8, |x: &u8, out: &mut Vec<u8>| out.push(*x);
    i8, I8, |x: &i8, out: &mut Vec<u8>| out.extend(x.to_le_bytes());
    u16, U16, |x: &u16, out: &mut Vec<u8>| out.extend(x.to_le_bytes());
    i16, I16, |x: &i16, out: &mut Vec<u8>| out.extend(x.to_le_bytes());
    u32, U32, |x: &u32, out: &mut Vec<u8>| out.extend(x.to_le_bytes());
    i32, I32, |x: &i32, out: &mut Vec<u8>| out.extend(x.to_le_bytes());
    u64, U64, |x: &u64, out: &mut Vec<u8>| out.extend(x.to_le_bytes());
    i64, I64, |x: &i64, out: &mut Vec<u8>| out.extend(x.to_le_bytes());
    f32, F32, |x: &f32, out: &mut Vec<u8>| out.extend(x.to_le_bytes());
    f64, F64, |x: &f64, out: &mut Vec<u8>| out.extend(x.to_le_bytes());
    bool, Bool, |x: &bool, out: &mut Vec<u8>| out.push(u8::from(*x));
    &str, String, |x: &&str, out: &mut Vec<u8>| string(x.as_bytes(), out);
    String, String, |x: &String, out: &mut Vec<u8>| string(x.as_bytes(), out);
    ByteString<'_>, String, |x: &ByteString<'_>, out: &mut Vec<u8>| string(x.0, out);
}

impl ToValue for Value<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        if self.is_array {
            number(ValueType::Array, out);
        }
        number(self.element, out);
        if self.is_array {
            length(self.count, out);
        }
        out.extend(self.bytes);
    }
}

/// Appends the number of a type.
fn number(of: ValueType, out: &mut Vec<u8>) {
    out.extend(of.number().to_le_bytes());
}

/// Appends a length.
fn length(n: usize, out: &mut Vec<u8>) {
    out.extend((n as u64).to_le_bytes());
}

/// Appends a string: its length, then its bytes.
pub(crate) fn string(bytes: &[u8], out: &mut Vec<u8>) {
    length(bytes.len(), out);
    out.extend(bytes);
}
