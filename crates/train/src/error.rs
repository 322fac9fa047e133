//! Errors of training.

use std::path::PathBuf;

/// Why a training could not start or continue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An invalid configuration.
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
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// Training text that is missing or too short, or an invalid selector.
    #[error("{0}")]
    Text(String),
    /// An error of the tokenizer.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A checkpoint or table of results that cannot be resumed from.
    #[error("{}: {message}", path.display())]
    Resume {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Gradients that are not finite, several steps in a row.
    #[error(
        "step {step}: the gradients of ten steps in a row are not finite, and the loss is {loss}; the last checkpoint is kept: lower `optimiser.rate`, or set `optimiser.warmup`"
    )]
    Diverged {
        /// The step.
        step: usize,
        /// Its loss.
        loss: f32,
    },
    /// An error of a tokenizer or of an encoder's directory.
    #[error(transparent)]
    Engine(#[from] longreach_engine::Error),
    /// An error of a table.
    #[error(transparent)]
    Table(#[from] longreach_search::Error),
    /// An error of the model or its files.
    #[error(transparent)]
    Model(#[from] longreach_models::Error),
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }
}
