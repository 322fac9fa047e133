//! What can go wrong between a file of documents and an index. Every message names the file.

use std::path::{Path, PathBuf};

/// Documents, vectors or an index that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that is not what it should be.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Fields that cannot be carried.
    #[error("{0}")]
    Fields(String),
    /// A document whose vector holds numbers that are none.
    #[error(
        "{origin}: its vector holds NaN or infinite numbers: the weights may be damaged, or too large for their precision (try --dtype f32)"
    )]
    NotFinite {
        /// Where the document is from.
        origin: String,
    },
    /// The encoder.
    #[error(transparent)]
    Engine(#[from] longreach_engine::Error),
    /// The work was ended by its user.
    #[error("interrupted: {rows} rows are kept in {}; the same command goes on", path.display())]
    Interrupted {
        /// Rows that are done.
        rows: u64,
        /// Where they are.
        path: PathBuf,
    },
}

impl Error {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Error::Io { path: path.to_owned(), source }
    }

    pub(crate) fn file(path: &Path, message: impl Into<String>) -> Self {
        Error::File { path: path.to_owned(), message: message.into() }
    }
}
