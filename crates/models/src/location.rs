//! What a user may call a model: a directory, a file of weights, or a Hub id.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::{Error, Progress, hub};

/// Where a model's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The directory with `config.json` and the tokenizer.
    pub directory: PathBuf,
    /// The weights, where they are one named file.
    pub weights: Option<PathBuf>,
}

impl Location {
    /// Finds `name`: a directory, a file of weights, or else an id on the Hub, fetched if it is not in the cache.
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
                let reason = "there is no such file or directory, and it is no Hub id (`owner/name` or `name`)".into();
                Err(Error::NotFound { name: path.display().to_string(), reason })
            }
        }
    }
}
