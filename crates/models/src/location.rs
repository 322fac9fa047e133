//! What a user may call a model: a directory, a safetensors file, or a Hub id.

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
    /// Finds `name`: a directory, a `.safetensors` file, or else an id on the Hub, fetched if it is not in the cache.
    pub fn find(name: &str, progress: Progress) -> Result<Self, Error> {
        let path = Path::new(name);
        if path.is_dir() {
            return Ok(Self { directory: path.to_owned(), weights: None });
        }
        if path.is_file() {
            let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            return Ok(Self { directory: directory.to_owned(), weights: Some(path.to_owned()) });
        }
        if !hub::is_id(name) {
            let reason = "no such file or directory, and not a Hub id (`owner/name`)".into();
            return Err(Error::NotFound { name: name.into(), reason });
        }
        Ok(Self { directory: hub::fetch(name, progress)?, weights: None })
    }
}
