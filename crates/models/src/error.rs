//! What can go wrong between a name on the command line and a model in memory. Every message names the file.

use std::path::PathBuf;

/// A model that cannot be loaded or saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A path or Hub id that leads nowhere.
    #[error("{name}: {reason}")]
    NotFound {
        /// What was asked for.
        name: String,
        /// Why it cannot be had.
        reason: String,
    },
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A configuration that is not JSON, or a field of it that does not fit.
    #[error("{file}: {message}")]
    Config {
        /// The file.
        file: String,
        /// The field and what is wrong with it.
        message: String,
    },
    /// A model type that no file of this crate knows.
    #[error("{file}: model_type `{found}` is not known; known are {known}")]
    UnknownModel {
        /// The file.
        file: String,
        /// The type it names.
        found: String,
        /// Those that can be loaded.
        known: String,
    },
    /// A checkpoint that lies about itself.
    #[error("{file}: {message}")]
    Checkpoint {
        /// The file.
        file: String,
        /// What is wrong.
        message: String,
    },
    /// A tensor that does not fit the model.
    #[error(transparent)]
    Tensor(#[from] longreach_nn::Error),
}

impl Error {
    /// An input or output error, with its file.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }
}
