//! Errors of reading documents, embedding and searching. Every message names its file.

use std::path::{Path, PathBuf};

/// Why documents, vectors or an index could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A file or folder with unexpected content.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Fields that cannot be copied to the output.
    #[error("{0}")]
    Fields(String),
    /// A document or query whose vector holds NaN or infinite numbers.
    #[error(
        "{origin}: its vector holds NaN or infinite numbers: the weights may be damaged, or overflow in this dtype (try --dtype f32)"
    )]
    NotFinite {
        /// The file and line or row of the document, or the query.
        origin: String,
    },
    /// An error of the encoder or its files.
    #[error(transparent)]
    Engine(#[from] longreach_engine::Error),
    /// The progress callback stopped the job; its finished shards are kept.
    #[error("interrupted: {rows} documents are saved in {}; run the same command again to resume", path.display())]
    Interrupted {
        /// Number of finished documents.
        rows: u64,
        /// Folder of the shards.
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
