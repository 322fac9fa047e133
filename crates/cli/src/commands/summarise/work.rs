//! The finished pieces of a summary on disk, so that an interrupted run continues.

use std::path::{Path, PathBuf};

use longreach_models::write_atomically;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// The file, written after each piece.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: String,
    /// A hash of what the answers depend on: the model, the texts and the options.
    of: String,
    /// The answers in the order of the work.
    answers: Vec<String>,
}

const FORMAT: &str = "longreach summary 1";

/// The answers so far.
pub(super) struct Work {
    file: PathBuf,
    stored: Stored,
    /// How many of them were used in this run.
    used: usize,
}

impl Work {
    /// The work of an earlier run with the same hash, or none. An error if the file is something else, or belongs to another summary.
    pub(super) fn open(file: &Path, of: String) -> Result<Self, Failure> {
        let wrong = |message: String| Failure::new(format!("{}: {message}", file.display()));
        let stored = match std::fs::read(file) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Stored { format: FORMAT.into(), of, answers: Vec::new() }
            }
            Err(e) => return Err(wrong(e.to_string())),
            Ok(bytes) => {
                let stored: Stored = serde_json::from_slice(&bytes)
                    .map_err(|e| wrong(format!("not the work of a summary ({e}): choose another file (--work)")))?;
                if stored.format != FORMAT {
                    return Err(wrong(format!("format: want `{FORMAT}`, found `{}`: delete it", stored.format)));
                }
                if stored.of != of {
                    return Err(wrong(
                        "the work of other texts, another model or other options: delete it to begin anew, or choose another file (--work)".into(),
                    ));
                }
                stored
            }
        };
        Ok(Self { file: file.to_owned(), stored, used: 0 })
    }

    /// The number of answers of earlier runs that were not used yet.
    pub(super) fn waiting(&self) -> usize {
        self.stored.answers.len() - self.used
    }

    /// The number of the next answer.
    pub(super) fn next(&self) -> usize {
        self.used
    }

    /// The next answer, if an earlier run made it.
    pub(super) fn take(&mut self) -> Option<String> {
        let answer = self.stored.answers.get(self.used)?.clone();
        self.used += 1;
        Some(answer)
    }

    /// Adds the next answer and writes the file.
    pub(super) fn add(&mut self, answer: &str) -> Result<(), Failure> {
        self.stored.answers.push(answer.to_owned());
        self.used += 1;
        let json = serde_json::to_vec_pretty(&self.stored).map_err(Failure::new)?;
        Ok(write_atomically(&self.file, |out| out.write_all(&json))?)
    }

    /// Removes the file.
    pub(super) fn done(self) -> Result<(), Failure> {
        match std::fs::remove_file(&self.file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::new(format!("{}: {e}", self.file.display())))
            }
            _ => Ok(()),
        }
    }
}
