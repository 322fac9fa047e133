//! Reading and writing GGUF, the file format of llama.cpp.
//!
//! A GGUF file is a model in one file: metadata, which are values by key (the architecture, its sizes, the tokenizer),
//! and tensors, most of them in blocks of a few bits per element. Everything is little-endian, and nothing is padded
//! but the data:
//!
//! ```text
//! "GGUF"  u32 version  u64 tensors  u64 entries
//! entries × { string key   u32 type   value }
//! tensors × { string name  u32 axes   u64 size × axes  u32 type  u64 offset }
//! padding
//! tensors × { data  padding }
//! ```
//!
//! - A `string` is a u64 length and as many bytes: UTF-8, except the texts of tokens, which may be any bytes.
//! - The type of a value is a number ([`ValueType`]). An array is the u32 type of its elements, their u64 number, and
//!   the elements; arrays of arrays are not supported, here as in llama.cpp.
//! - The sizes of a tensor are stored innermost first. This crate has them outermost first, as PyTorch does: a matrix
//!   is `[rows, columns]`. A row is a whole number of the blocks of its type ([`TensorType`]).
//! - An offset counts from the beginning of the data. It and that beginning are multiples of the alignment: 32, or what
//!   the u32 entry `general.alignment` says.
//! - The version is 3; version 2 is read alike. Version 1 had other lengths and is not read.
//! - A large model may be split into files `NAME-00001-of-00004.gguf` and so on. Each is a GGUF file of its own, and
//!   says which part it is; the first has all other metadata, and the tensors are spread over all.
//!
//! # Reading
//!
//! [`Gguf::open`] maps a file and checks its header. [`Metadata`] decodes a value when it is asked for, and a
//! [`Tensor`] hands out its data where they lie in the mapped file:
//!
//! ```
//! # fn main() -> Result<(), longreach_gguf::Error> {
//! let file = longreach_gguf::Gguf::open("tests/goldens/tensors.gguf")?;
//! let architecture: &str = file.metadata().require("general.architecture")?;
//! # let mut n = 0;
//! for tensor in file.tensors() {
//!     let (name, shape, kind) = (tensor.name(), tensor.shape(), tensor.tensor_type());
//!     let data: bytes::Bytes = tensor.bytes(); // keeps the file mapped
//!     # assert!(!architecture.is_empty() && !name.is_empty() && data.len() > shape.len() && kind.name() != "");
//!     # n += 1;
//! }
//! # assert!(n > 0);
//! # Ok(()) }
//! ```
//!
//! A file may be damaged or malicious. Whatever its bytes are, reading it ends in a value or an error, and takes no
//! more memory than a few times its header.
//!
//! # Writing
//!
//! A [`Header`] is put together first, since it declares the sizes of all tensors; then a [`Writer`] takes the data of
//! one tensor after another, so that no more than a tensor, or a piece of one, has to be in memory:
//!
//! ```
//! # fn main() -> Result<(), longreach_gguf::Error> {
//! use longreach_gguf::{Header, TensorType};
//!
//! let mut header = Header::new();
//! header.set("general.architecture", "llama")?;
//! header.set("llama.block_count", 2u32)?;
//! header.declare("output_norm.weight", &[4], TensorType::F32)?;
//! let mut writer = header.write_to(Vec::new())?;
//! writer.tensor("output_norm.weight", &[0; 16])?;
//! let file: Vec<u8> = writer.finish()?;
//! # assert_eq!(file.len(), 192);
//! # Ok(()) }
//! ```

mod cursor;
mod error;
mod from_value;
mod gguf;
mod header;
mod metadata;
mod parse;
mod split;
mod tensor;
mod tensor_type;
mod to_value;
pub mod tokenizer;
mod value;
mod value_type;
mod writer;

pub use error::Error;
pub use from_value::{FromValue, OneOrMany, Strings};
pub use gguf::Gguf;
pub use header::{Declared, Header};
pub use metadata::Metadata;
pub use split::split_path;
pub use tensor::Tensor;
pub use tensor_type::TensorType;
pub use to_value::{ByteString, ToValue};
pub use value::Value;
pub use value_type::ValueType;
pub use writer::Writer;
