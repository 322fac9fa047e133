//! Resolving the name of a model: a directory, a weight file, or a Hub id.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::{Checkpoint, Error, Progress, hub};

/// The location of a model's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The directory with `config.json` and the tokenizer.
    pub directory: PathBuf,
    /// The weight file, if a single one was named.
    pub weights: Option<PathBuf>,
}

impl Location {
    /// The GGUF file that is the model: the file that was named, or the only one in a directory without `config.json`.
    /// `None` if the model is no GGUF file.
    pub fn gguf(&self) -> Option<PathBuf> {
        let is = |path: &Path| path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
        if let Some(weights) = &self.weights {
            return is(weights).then(|| weights.clone());
        }
        if self.directory.join("config.json").exists() {
            return None;
        }
        let entries = std::fs::read_dir(&self.directory).ok()?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| is(path)).collect();
        files.sort();
        // The parts of a split file are one.
        let first = files.first()?.clone();
        let name = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let of_split = |path: &Path| {
            name(path)
                .rsplit_once("-of-")
                .map(|(parts, _)| parts.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned())
        };
        let one = files.len() == 1
            || of_split(&first).is_some() && files.iter().all(|file| of_split(file) == of_split(&first));
        one.then_some(first)
    }

    /// The files of the weights, in order: all parts of a split GGUF file, all shards of an index. Errors as
    /// [`Checkpoint::files_in`] and [`longreach_gguf::Gguf::open`] do.
    pub fn weight_files(&self) -> Result<Vec<PathBuf>, Error> {
        if let Some(file) = self.gguf() {
            return Ok(longreach_gguf::Gguf::open(&file)?.files().map(PathBuf::from).collect());
        }
        match &self.weights {
            Some(file) => Ok(vec![file.clone()]),
            None => Checkpoint::files_in(&self.directory),
        }
    }

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
