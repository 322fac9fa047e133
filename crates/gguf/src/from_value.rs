//! The types as which metadata values are read.

use crate::value::Elements;
use crate::{Error, Value, ValueType};

/// A type as which a metadata value can be read.
///
/// These are: integers, from a value of any integer type in their range; `f32` and `f64`, from floats of either width;
/// `bool`; `&str`, from UTF-8; `&[u8]`, from any string; [`Vec`] of each of these, from an array; [`Strings`], from an
/// array of strings, without a copy; and [`OneOrMany`], from a value or an array.
pub trait FromValue<'a>: Sized {
    /// Decodes a value. Errors, naming the key, if it has another type or does not fit.
    fn from_value(value: Value<'a>) -> Result<Self, Error>;
}

macro_rules! integers {
    ($($type:ident)*) => { $(
        impl FromValue<'_> for $type {
            fn from_value(value: Value<'_>) -> Result<Self, Error> {
                let n = integer(value)?;
                $type::try_from(n).map_err(|_| {
                    value.error(format_args!("want {} to {}, found {n}", $type::MIN, $type::MAX))
                })
            }
        }
    )* };
}

integers!(u8 i8 u16 i16 u32 i32 u64 i64 usize isize i128);

/// An integer of any type.
fn integer(value: Value<'_>) -> Result<i128, Error> {
    let bytes = value.bytes;
    let n = match value.element {
        _ if value.is_array => None,
        ValueType::U8 => fixed(bytes).map(|b| u8::from_le_bytes(b).into()),
        ValueType::I8 => fixed(bytes).map(|b| i8::from_le_bytes(b).into()),
        ValueType::U16 => fixed(bytes).map(|b| u16::from_le_bytes(b).into()),
        ValueType::I16 => fixed(bytes).map(|b| i16::from_le_bytes(b).into()),
        ValueType::U32 => fixed(bytes).map(|b| u32::from_le_bytes(b).into()),
        ValueType::I32 => fixed(bytes).map(|b| i32::from_le_bytes(b).into()),
        ValueType::U64 => fixed(bytes).map(|b| u64::from_le_bytes(b).into()),
        ValueType::I64 => fixed(bytes).map(|b| i64::from_le_bytes(b).into()),
        ValueType::F32 | ValueType::F64 | ValueType::Bool | ValueType::String | ValueType::Array => None,
    };
    n.ok_or_else(|| value.wrong("an integer"))
}

fn fixed<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

impl FromValue<'_> for f64 {
    fn from_value(value: Value<'_>) -> Result<Self, Error> {
        let x = match value.element {
            _ if value.is_array => None,
            ValueType::F32 => fixed(value.bytes).map(|b| f32::from_le_bytes(b).into()),
            ValueType::F64 => fixed(value.bytes).map(f64::from_le_bytes),
            _ => None,
        };
        x.ok_or_else(|| value.wrong("a float"))
    }
}

/// Rounds 64-bit floats. Errors if a finite number would become infinite.
impl FromValue<'_> for f32 {
    fn from_value(value: Value<'_>) -> Result<Self, Error> {
        let wide: f64 = value.to()?;
        let x = wide as f32;
        if x.is_infinite() && wide.is_finite() {
            return Err(value.error(format_args!("want a 32-bit float, found {wide:e}")));
        }
        Ok(x)
    }
}

impl FromValue<'_> for bool {
    fn from_value(value: Value<'_>) -> Result<Self, Error> {
        match (value.value_type(), value.bytes) {
            (ValueType::Bool, [0]) => Ok(false),
            (ValueType::Bool, [1]) => Ok(true),
            (ValueType::Bool, bytes) => Err(value.error(format_args!("want true (1) or false (0), found {bytes:?}"))),
            _ => Err(value.wrong("true or false")),
        }
    }
}

impl<'a> FromValue<'a> for &'a [u8] {
    fn from_value(value: Value<'a>) -> Result<Self, Error> {
        match value.value_type() {
            ValueType::String => Ok(value.string()),
            _ => Err(value.wrong("a string")),
        }
    }
}

impl<'a> FromValue<'a> for &'a str {
    fn from_value(value: Value<'a>) -> Result<Self, Error> {
        let bytes: &[u8] = value.to()?;
        std::str::from_utf8(bytes).map_err(|e| value.error(format_args!("want UTF-8: {e}")))
    }
}

impl<'a, T: FromValue<'a>> FromValue<'a> for Vec<T> {
    fn from_value(value: Value<'a>) -> Result<Self, Error> {
        // Room for as many as there are: reading the header has found every element.
        let elements = value.elements()?;
        let mut all = Vec::with_capacity(elements.len());
        for element in elements {
            all.push(element.to()?);
        }
        Ok(all)
    }
}

/// An array of strings as an iterator over their bytes, which need not be UTF-8.
pub struct Strings<'a>(Elements<'a>);

impl<'a> FromValue<'a> for Strings<'a> {
    fn from_value(value: Value<'a>) -> Result<Self, Error> {
        if value.is_array && value.element == ValueType::String {
            Ok(Self(Elements::of(value)))
        } else {
            Err(value.wrong("an array of strings"))
        }
    }
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.0.next().map(|value| value.string())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Strings<'_> {}

/// A value for all layers, or an array with one for each: `attention.head_count_kv` and `feed_forward_length` are
/// either, depending on the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OneOrMany<T> {
    /// The same for all layers.
    One(T),
    /// One for each layer.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// The value of a layer; `None` if there is an array, and it is shorter.
    pub fn at(&self, layer: usize) -> Option<&T> {
        match self {
            OneOrMany::One(value) => Some(value),
            OneOrMany::Many(values) => values.get(layer),
        }
    }
}

impl<'a, T: FromValue<'a>> FromValue<'a> for OneOrMany<T> {
    fn from_value(value: Value<'a>) -> Result<Self, Error> {
        if value.is_array { Ok(OneOrMany::Many(value.to()?)) } else { Ok(OneOrMany::One(value.to()?)) }
    }
}
