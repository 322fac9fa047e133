//! What can stop a training.

use std::path::PathBuf;

/// A training that cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration.
    #[error("{file}: {message}")]
    Config {
        /// The file.
        file: String,
        /// The field and what is wrong.
        message: String,
    },
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text.
    #[error("{0}")]
    Text(String),
    /// The tokenizer.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A checkpoint that cannot be taken up.
    #[error("{}: {message}", path.display())]
    Resume {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The model.
    #[error(transparent)]
    Model(#[from] longreach_models::Error),
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }
}
