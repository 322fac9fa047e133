//! Errors of loading and saving models. Every message names the file.

use std::path::PathBuf;

/// A model that cannot be loaded or saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A path or a Hub id that does not lead to a model.
    #[error("{name}: {reason}")]
    NotFound {
        /// The path or id.
        name: String,
        /// The reason.
        reason: String,
    },
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A configuration that is not JSON, or has an invalid field.
    #[error("{file}: {message}")]
    Config {
        /// The file.
        file: String,
        /// The field and its error.
        message: String,
    },
    /// An unsupported model type.
    #[error("{file}: model_type `{found}` is not supported; supported are {known}")]
    UnknownModel {
        /// The file.
        file: String,
        /// The type in the file.
        found: String,
        /// The supported types.
        known: String,
    },
    /// An inconsistent checkpoint.
    #[error("{file}: {message}")]
    Checkpoint {
        /// The file.
        file: String,
        /// The inconsistency.
        message: String,
    },
    /// A GGUF file that is damaged, or has a value of another type.
    #[error(transparent)]
    Gguf(#[from] longreach_gguf::Error),
    /// A tensor that does not fit the model.
    #[error(transparent)]
    Tensor(#[from] longreach_nn::Error),
}

impl Error {
    /// An I/O error of a file.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }
}
