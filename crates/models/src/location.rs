//! Resolving the name of a model: a directory, a weight file, or a Hub id.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::{Error, Progress, hub};

/// The location of a model's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The directory with `config.json` and the tokenizer.
    pub directory: PathBuf,
    /// The weight file, if a single one was named.
    pub weights: Option<PathBuf>,
}

impl Location {
    /// Resolves `name`: a directory, a weight file, or otherwise a Hub id, which is downloaded if it is not cached.
    /// Errors if there is no such path or model, or if the download fails.
    pub fn find(name: impl AsRef<OsStr>, progress: Progress) -> Result<Self, Error> {
        let path = Path::new(name.as_ref());
        if path.is_dir() {
            return Ok(Self { directory: path.to_owned(), weights: None });
        }
        if path.is_file() {
            let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            return Ok(Self { directory: directory.to_owned(), weights: Some(path.to_owned()) });
        }
        match path.to_str().filter(|name| hub::is_id(name)) {
            Some(id) => Ok(Self { directory: hub::fetch(id, progress)?, weights: None }),
            None => {
                let reason =
                    "there is no such file or directory, and it is not a Hub id (`owner/name` or `name`)".into();
                Err(Error::NotFound { name: path.display().to_string(), reason })
            }
        }
    }
}
