//! What several tests share.

#![allow(dead_code, reason = "no test uses all of it")]

use std::path::{Path, PathBuf};

use bytes::Bytes;
use longreach_gguf::{Error, Gguf};

/// The path of a golden.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

/// The bytes of a golden.
pub(crate) fn golden(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).expect("a golden")
}

/// The data of the goldens' tensors.
pub(crate) fn data(start: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| u8::try_from((start + 31 * i) % 251).expect("below 251")).collect()
}

/// Reads a file called `model.gguf`.
pub(crate) fn read(bytes: Vec<u8>) -> Result<Gguf, Error> {
    Gguf::from_bytes("model.gguf", Bytes::from(bytes))
}

/// The message of the error of reading a file called `model.gguf`, without that name.
pub(crate) fn refused(bytes: Vec<u8>) -> String {
    let message = read(bytes).expect_err("an error").to_string();
    message.strip_prefix("model.gguf: ").expect("the name of the file").to_owned()
}

/// A file put together by hand, so that it can lie.
pub(crate) struct Raw {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    pub(crate) tensors: u64,
    pub(crate) entries: u64,
    pub(crate) body: Vec<u8>,
}

impl Raw {
    pub(crate) fn new() -> Self {
        Self { magic: *b"GGUF", version: 3, tensors: 0, entries: 0, body: Vec::new() }
    }

    pub(crate) fn u32(mut self, n: u32) -> Self {
        self.body.extend(n.to_le_bytes());
        self
    }

    pub(crate) fn u64(mut self, n: u64) -> Self {
        self.body.extend(n.to_le_bytes());
        self
    }

    pub(crate) fn string(mut self, text: &[u8]) -> Self {
        self = self.u64(text.len() as u64);
        self.body.extend(text);
        self
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.body.extend(bytes);
        self
    }

    /// An entry: what follows is its value.
    pub(crate) fn key(mut self, key: &str, value_type: u32) -> Self {
        self.entries += 1;
        self.string(key.as_bytes()).u32(value_type)
    }

    /// A tensor, with sizes as files have them.
    pub(crate) fn tensor(mut self, name: &str, sizes: &[u64], tensor_type: u32, offset: u64) -> Self {
        self.tensors += 1;
        self = self.string(name.as_bytes()).u32(sizes.len() as u32);
        for size in sizes {
            self = self.u64(*size);
        }
        self.u32(tensor_type).u64(offset)
    }

    /// The file, with the data of its tensors behind the padding.
    pub(crate) fn with_data(self, bytes: usize) -> Vec<u8> {
        let mut file = self.file();
        let padded = file.len().next_multiple_of(32);
        file.resize(padded + bytes, 7);
        file
    }

    /// The file, without padding and data.
    pub(crate) fn file(self) -> Vec<u8> {
        let mut file = self.magic.to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(self.tensors.to_le_bytes());
        file.extend(self.entries.to_le_bytes());
        file.extend(self.body);
        file
    }
}
