//! The shards of a job: Arrow tables that record which documents they cover, so that a job resumes only on unchanged input.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::documents::Document;
use crate::ipc::Table;
use crate::table::{Columns, Row, checksum, write};

/// A finished shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) path: PathBuf,
    /// The number of documents up to its end, those of earlier shards included.
    pub(crate) documents: u64,
    /// The number of its rows.
    pub(crate) rows: u64,
    /// How many of its documents exceed the input limit of the model, and how many are blank.
    pub(crate) long: u64,
    pub(crate) blank: u64,
    /// The largest overlap of two parts of a document, in tokens.
    pub(crate) shared: u64,
    /// The hash of all documents up to its end ([`Seen`]).
    pub(crate) input: String,
    /// The hash of its rows.
    pub(crate) checksum: String,
}

impl Made {
    /// Writes a shard and its metadata, and fills in its checksum.
    pub(crate) fn write(mut self, columns: &Columns, rows: &[Row]) -> Result<Self, Error> {
        let batch = columns.batch(rows);
        self.checksum = checksum(&batch);
        let number = |n: u64| n.to_string();
        let metadata = HashMap::from([
            ("documents".to_owned(), number(self.documents)),
            ("long".to_owned(), number(self.long)),
            ("blank".to_owned(), number(self.blank)),
            ("shared".to_owned(), number(self.shared)),
            ("input".to_owned(), self.input.clone()),
            ("checksum".to_owned(), self.checksum.clone()),
        ]);
        let schema = columns.schema().as_ref().clone().with_metadata(metadata);
        write(&self.path, &schema.into(), std::iter::once(Ok(batch)))?;
        Ok(self)
    }

    /// Reads the metadata of a shard and verifies the checksum of its rows.
    pub(crate) fn read(path: &Path, columns: &Columns) -> Result<Self, Error> {
        let table = Table::open(path)?;
        let wrong =
            |message: String| Error::file(path, format!("damaged: {message}; delete it to have it computed again"));
        let text = |name: &str| {
            let found = table.metadata(name).map(str::to_owned);
            found.ok_or_else(|| wrong(format!("`{name}` is missing from its metadata")))
        };
        let number = |name: &str| {
            let said = text(name)?;
            said.parse::<u64>().map_err(|_| wrong(format!("`{name}`: want a number, found `{said}`")))
        };
        let (mut rows, mut sums) = (0, Vec::new());
        for batch in table.batches(&columns.schema())? {
            let batch = batch?;
            rows += batch.num_rows() as u64;
            sums.push(checksum(&batch));
        }
        let made = Made {
            path: path.to_owned(),
            documents: number("documents")?,
            rows,
            long: number("long")?,
            blank: number("blank")?,
            shared: number("shared")?,
            input: text("input")?,
            checksum: text("checksum")?,
        };
        if sums != [made.checksum.as_str()] {
            return Err(wrong("the checksum of its rows does not match".into()));
        }
        Ok(made)
    }
}

/// A running hash of the texts, files and fields of the documents read so far.
#[derive(Default)]
pub(crate) struct Seen(blake3::Hasher);

impl Seen {
    pub(crate) fn add(&mut self, document: &Document) {
        let mut part = |text: Option<&str>| match text {
            Some(text) => {
                self.0.update(&(text.len() as u64).to_le_bytes());
                self.0.update(text.as_bytes());
            }
            None => {
                self.0.update(&u64::MAX.to_le_bytes());
            }
        };
        part(Some(&document.text));
        part(document.file.as_deref());
        document.fields.iter().for_each(|field| part(field.as_deref()));
    }

    pub(crate) fn hash(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}
