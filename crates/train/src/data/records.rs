//! Rows of tables, and files in directories that are named as their labels.

use std::path::{Path, PathBuf};

use longreach_search::documents::{Documents, Input, Options};

use crate::Error;
use crate::config::{Data, Format, HeldOut};

/// A row: a value for each column that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The file and the row, for errors.
    pub(crate) origin: String,
    /// The values, in the order of the roles; lists and objects as JSON.
    pub(crate) values: Vec<Option<String>>,
}

/// The rows of all sources.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    /// What the values of a row are, such as `text`.
    pub(crate) roles: Vec<String>,
    /// The rows to train on, by source.
    pub(crate) train: Vec<Vec<Record>>,
    /// The rows to evaluate on.
    pub(crate) held_out: Vec<Record>,
}

/// The columns an objective can read: one of the sets must be there, each with those it needs and those it may have.
pub(crate) type Roles = [(&'static [&'static str], &'static [&'static str])];

impl Records {
    /// Reads all sources. Errors if a file cannot be read, or no set of `roles` is there.
    pub(crate) fn read(data: &Data, roles: &Roles) -> Result<Self, Error> {
        Self::gathered(data, |records, path| records.rows(data, path, roles))
    }

    /// Reads the columns `names` of all sources, in this order. Errors if a file cannot be read or lacks one of them.
    pub(crate) fn of_columns(data: &Data, names: &[String]) -> Result<Self, Error> {
        let column = |name: &str| data.columns.get(name).cloned().unwrap_or_else(|| name.to_owned());
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Self::gathered(data, |records, path| {
            records.roles = names.iter().map(|name| (*name).to_owned()).collect();
            rows_of(Input::of(path)?.read(&options(&names, &column))?)
        })
    }

    fn gathered(
        data: &Data,
        mut read: impl FnMut(&mut Self, &str) -> Result<Vec<Record>, Error>,
    ) -> Result<Self, Error> {
        let mut records = Records::default();
        for source in &data.sources {
            let rows = read(&mut records, &source.path)?;
            let (mut train, mut held_out) = (Vec::new(), Vec::new());
            for row in rows {
                if data.held_out.chooses(hash(&row)) { held_out.push(row) } else { train.push(row) }
            }
            if train.is_empty() {
                return Err(Error::Text(format!("{}: there is no row to train on", source.path)));
            }
            records.train.push(train);
            records.held_out.append(&mut held_out);
        }
        if let HeldOut::Path { path } = &data.held_out {
            records.held_out = read(&mut records, path)?;
            let held: std::collections::HashSet<u64> = records.held_out.iter().map(hash).collect();
            records.train.iter_mut().for_each(|rows| rows.retain(|row| !held.contains(&hash(row))));
        }
        Ok(records)
    }

    /// The number of rows to train on.
    pub(crate) fn len(&self) -> usize {
        self.train.iter().map(Vec::len).sum()
    }

    fn rows(&mut self, data: &Data, path: &str, roles: &Roles) -> Result<Vec<Record>, Error> {
        if data.format == Format::Text {
            return self.labelled(path);
        }
        rows_of(self.open(data, path, roles)?)
    }

    /// Opens a table, and finds out which of its columns are read.
    fn open(&mut self, data: &Data, path: &str, roles: &Roles) -> Result<Documents, Error> {
        let column = |role: &str| data.columns.get(role).cloned().unwrap_or_else(|| role.to_owned());
        let (input, mut failed) = (Input::of(path)?, None);
        // The set with the most columns that the first row has.
        let mut best: Option<Vec<&str>> = None;
        for (needed, more) in roles {
            let all: Vec<&str> = needed.to_vec();
            match first(&input, &all, &column) {
                Ok(()) => {
                    let mut found = all;
                    for role in *more {
                        let with: Vec<&str> = found.iter().copied().chain([*role]).collect();
                        if first(&input, &with, &column).is_ok() {
                            found = with;
                        }
                    }
                    best = best.filter(|best| best.len() >= found.len()).or(Some(found));
                }
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        let Some(best) = best else {
            let sets: Vec<String> = roles.iter().map(|(needed, _)| needed.join(" and ")).collect();
            let why = failed.map_or_else(String::new, |e| format!(": {e}"));
            return Err(Error::Text(format!(
                "{path}: want the columns {}, or their names in `data.columns`{why}",
                sets.join(", or ")
            )));
        };
        if self.roles.is_empty() {
            self.roles = best.iter().map(|role| (*role).to_owned()).collect();
        } else if self.roles != best {
            let (known, found) = (self.roles.join(", "), best.join(", "));
            return Err(Error::Text(format!("{path}: has the columns {found}, and an earlier source {known}")));
        }
        Ok(input.read(&options(&best, &column))?)
    }

    /// Of sources that are streamed, the first `most` rows of each. Errors as [`Records::read`] does.
    pub(crate) fn beginning(data: &Data, roles: &Roles, most: usize) -> Result<Self, Error> {
        let mut records = Records::default();
        for source in &data.sources {
            let mut documents = records.open(data, &source.path, roles)?;
            let mut rows = Vec::new();
            while let (true, Some((document, _))) = (rows.len() < most, documents.next()?) {
                rows.push(Record { origin: document.origin(), values: document.fields });
            }
            let (mut held_out, train): (Vec<_>, Vec<_>) =
                rows.into_iter().partition(|row| data.held_out.chooses(hash(row)));
            records.held_out.append(&mut held_out);
            records.train.push(train);
        }
        if let HeldOut::Path { path } = &data.held_out {
            records.held_out = records.rows(data, path, roles)?;
        }
        Ok(records)
    }

    /// The text files below a directory, each with the name of its directory as its label.
    fn labelled(&mut self, path: &str) -> Result<Vec<Record>, Error> {
        self.roles = vec!["text".into(), "label".into()];
        let mut rows = Vec::new();
        for file in files(Path::new(path))? {
            let bytes = std::fs::read(&file).map_err(|e| Error::io(&file, e))?;
            let label = file.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
            let text = String::from_utf8_lossy(&bytes).into_owned();
            rows.push(Record { origin: file.display().to_string(), values: vec![Some(text), label] });
        }
        if rows.is_empty() {
            let message = "want a directory for each label with .txt or .md files, or `data.format` \"table\"";
            return Err(Error::Text(format!("{path}: {message}")));
        }
        Ok(rows)
    }
}

/// All rows of a table.
fn rows_of(mut documents: Documents) -> Result<Vec<Record>, Error> {
    let mut rows = Vec::new();
    while let Some((document, _)) = documents.next()? {
        rows.push(Record { origin: document.origin(), values: document.fields });
    }
    Ok(rows)
}

pub(super) fn options(roles: &[&str], column: &impl Fn(&str) -> String) -> Options {
    let fields: Vec<String> = roles.iter().map(|role| column(role)).collect();
    Options { column: fields.first().cloned(), fields, ..Options::default() }
}

/// Reads the first row, which says whether all columns are there.
fn first(input: &Input, roles: &[&str], column: &impl Fn(&str) -> String) -> Result<(), Error> {
    input.read(&options(roles, column))?.next()?;
    Ok(())
}

/// A hash of the values that is the same on every platform.
pub(crate) fn hash(row: &Record) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for value in &row.values {
        let value = value.as_deref().unwrap_or_default();
        hasher.update(&(value.len() as u64).to_le_bytes());
        hasher.update(value.as_bytes());
    }
    u64::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().expect("a digest has 32 bytes"))
}

/// The text files of a directory tree, sorted by path.
fn files(root: &Path) -> Result<Vec<PathBuf>, Error> {
    let (mut found, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(path) = open.pop() {
        if path.is_dir() {
            for entry in std::fs::read_dir(&path).map_err(|e| Error::io(&path, e))? {
                open.push(entry.map_err(|e| Error::io(&path, e))?.path());
            }
        } else if matches!(path.extension().and_then(|e| e.to_str()), Some("txt" | "md")) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
