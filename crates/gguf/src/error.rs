//! Errors of reading and writing GGUF files. A message about a file names it, and the key or the tensor concerned.

use std::io;
use std::path::PathBuf;

/// A GGUF file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that cannot be opened or mapped.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A file that is not GGUF, or whose header, data or other parts are inconsistent.
    #[error("{file}: {message}")]
    File {
        /// The file.
        file: String,
        /// The inconsistency.
        message: String,
    },
    /// An invalid metadata entry, or one whose value is not of the type that was asked for.
    #[error("{file}: key `{}`: {message}", key.escape_debug())]
    Key {
        /// The file.
        file: String,
        /// The key of the entry.
        key: String,
        /// What is wrong with it.
        message: String,
    },
    /// An invalid tensor.
    #[error("{file}: tensor `{}`: {message}", tensor.escape_debug())]
    Tensor {
        /// The file.
        file: String,
        /// The name of the tensor.
        tensor: String,
        /// What is wrong with it.
        message: String,
    },
    /// Content that cannot be stored in a GGUF file, or data that differ from what the header declares.
    #[error("{message}")]
    Content {
        /// The key or tensor, and what is wrong with it.
        message: String,
    },
    /// An output that cannot be written.
    #[error("the GGUF file cannot be written: {0}")]
    Write(#[source] io::Error),
}

impl Error {
    pub(crate) fn file(file: &str, message: impl Into<String>) -> Self {
        Error::File { file: file.into(), message: message.into() }
    }

    pub(crate) fn key(file: &str, key: &str, message: impl Into<String>) -> Self {
        Error::Key { file: file.into(), key: key.into(), message: message.into() }
    }

    pub(crate) fn tensor(file: &str, tensor: &str, message: impl Into<String>) -> Self {
        Error::Tensor { file: file.into(), tensor: tensor.into(), message: message.into() }
    }

    pub(crate) fn content(message: impl Into<String>) -> Self {
        Error::Content { message: message.into() }
    }
}
