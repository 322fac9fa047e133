//! Texts from lines, tables (JSON, CSV, Parquet) and folders, one at a time.
//!
//! Which format an input has and which of its columns holds the text is decided once for each file, by its name, its first bytes and its first row.
//!
//! Every text is UTF-8, or UTF-16 where a byte order mark says so; marks are no part of a text. A line ends with `\n`, `\r\n` or `\r`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::Error;
use source::Source;

mod column;
mod csv;
mod folder;
mod json;
mod kind;
mod lines;
mod parquet;
mod source;

pub(crate) use folder::whole;
pub use kind::Kind;

/// A text, and where it is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The text.
    pub text: String,
    /// The file it is from; nothing for standard input.
    pub file: Option<String>,
    /// Where in the file the text begins, in bytes (of UTF-8), where the file is text; 0 for rows of tables.
    pub start: u64,
    /// Which part of the file it is.
    pub place: Place,
    /// The values of the fields that were asked for besides ([`Options::fields`]), as texts; nothing where there is none or `null`.
    pub fields: Vec<Option<String>>,
}

impl Document {
    /// Where it is from, for messages: the file, and the line or row.
    pub fn origin(&self) -> String {
        let file = self.file.as_deref().unwrap_or("standard input");
        match self.place {
            Place::Line(line) => format!("{file}: line {line}"),
            Place::Row(row) => format!("{file}: row {row}"),
            Place::Whole => file.to_owned(),
        }
    }
}

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The line of this number, counted from 1; that on which a row of a table begins.
    Line(u64),
    /// The row of this number, counted from 0.
    Row(u64),
    /// All of it.
    Whole,
}

/// How documents are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The format of the input, or of each file of a folder; decided by names and first bytes if absent.
    pub format: Option<Kind>,
    /// The column that holds the text; if absent, `text`, or else the only column of texts.
    pub column: Option<String>,
    /// Columns whose values are carried with the text.
    pub fields: Vec<String>,
    /// Files and folders in a folder that are not read: what is written during the work.
    pub leave_out: Vec<PathBuf>,
}

/// What documents are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Standard input: JSON lines if its first line that is not blank is a JSON object, else a line a document.
    Standard,
    /// A file: `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv` or `.parquet`, or any other text, a line a document.
    File(PathBuf),
    /// A folder: each text file in it, and in the folders in it, is a document; each row of a table is one. Symbolic links are followed. What is no text is
    /// left out, as is what begins with a dot.
    Folder(PathBuf),
}

impl Input {
    /// `-` is standard input.
    pub fn of(name: impl AsRef<OsStr>) -> Result<Self, Error> {
        if name.as_ref() == "-" {
            return Ok(Input::Standard);
        }
        let path = PathBuf::from(name.as_ref());
        let about = std::fs::metadata(&path).map_err(|e| Error::io(&path, e))?;
        Ok(if about.is_dir() { Input::Folder(path) } else { Input::File(path) })
    }

    /// Its name in messages.
    pub fn name(&self) -> String {
        match self {
            Input::Standard => "standard input".into(),
            Input::File(path) | Input::Folder(path) => path.display().to_string(),
        }
    }

    /// What it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Input::Standard => "standard input",
            Input::File(_) => "file",
            Input::Folder(_) => "folder",
        }
    }

    /// Its documents, where nothing is said but the column that holds the text.
    pub fn documents(&self, column: Option<&str>) -> Result<Documents, Error> {
        self.read(&Options { column: column.map(str::to_owned), ..Options::default() })
    }

    /// Its documents.
    pub fn read(&self, options: &Options) -> Result<Documents, Error> {
        let rows = match self {
            Input::Folder(path) => {
                return Ok(Documents { rows: Rows::Folder(Box::new(folder::Folder::of(path, options)?)) });
            }
            Input::File(path) => of_file(path, options)?,
            Input::Standard => {
                let mut source = Source::standard()?;
                let kind = options.format.map_or_else(|| kind::of_first_line(&mut source), Ok)?;
                of_kind(kind, source, options)?
            }
        };
        Ok(Documents { rows })
    }

    /// Whether a first document can be read, where that takes nothing from it: not of standard input and of pipes.
    pub fn check(&self, options: &Options) -> Result<(), Error> {
        let again = match self {
            Input::Standard => false,
            Input::Folder(_) => true,
            Input::File(path) => std::fs::metadata(path).is_ok_and(|about| about.is_file()),
        };
        if again && self.read(options)?.next()?.is_none() {
            return Err(self.nothing());
        }
        Ok(())
    }

    /// The error that there is no document in it.
    pub(crate) fn nothing(&self) -> Error {
        let message = match self {
            Input::Standard | Input::File(_) => "holds no document",
            Input::Folder(_) => "holds no document: there is no text file in it (hidden files are left out)",
        };
        Error::file(Path::new(&self.name()), message)
    }

    /// The files that are read, as far as they have names.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>, Error> {
        Ok(match self {
            Input::Standard => Vec::new(),
            Input::File(path) => vec![path.clone()],
            Input::Folder(path) => folder::Folder::of(path, &Options::default())?.files().to_vec(),
        })
    }

    /// How many bytes there are to read, where that is known.
    pub fn bytes(&self) -> Option<u64> {
        match self {
            Input::Standard => None,
            Input::File(path) => {
                std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|about| about.len())
            }
            Input::Folder(path) => folder::Folder::of(path, &Options::default()).ok().map(|folder| folder.bytes()),
        }
    }
}

/// Documents, one after another.
pub struct Documents {
    rows: Rows,
}

/// A file's documents, or a folder's.
enum Rows {
    Lines(lines::Lines),
    Whole(lines::Whole),
    JsonLines(json::JsonLines),
    Json(json::Json),
    Csv(Box<csv::Csv>),
    Parquet(Box<parquet::Parquet>),
    Folder(Box<folder::Folder>),
}

impl Rows {
    /// The next document, and about how many bytes have been read.
    fn next(&mut self) -> Result<Option<(Document, u64)>, Error> {
        match self {
            Rows::Lines(rows) => rows.next(),
            Rows::Whole(rows) => rows.next(),
            Rows::JsonLines(rows) => rows.next(),
            Rows::Json(rows) => rows.next(),
            Rows::Csv(rows) => rows.next(),
            Rows::Parquet(rows) => rows.next(),
            Rows::Folder(rows) => rows.next(),
        }
    }
}

impl Documents {
    /// The next document, and an estimate of how many bytes of the input have been read.
    #[allow(clippy::should_implement_trait, reason = "an iterator of results whose errors end it")]
    pub fn next(&mut self) -> Result<Option<(Document, u64)>, Error> {
        self.rows.next()
    }

    /// How many files of a folder were no text.
    pub fn left_out(&self) -> usize {
        if let Rows::Folder(folder) = &self.rows { folder.left_out } else { 0 }
    }

    /// How many symbolic links of a folder lead nowhere, or back to a folder that they are in.
    pub fn broken_links(&self) -> usize {
        if let Rows::Folder(folder) = &self.rows { folder.broken_links } else { 0 }
    }
}

/// The documents of a file.
fn of_file(path: &Path, options: &Options) -> Result<Rows, Error> {
    let named = Kind::of_name(path).map_err(|message| Error::file(path, message));
    let regular = std::fs::metadata(path).is_ok_and(|about| about.is_file());
    let kind = match options.format {
        Some(kind) => Some(kind),
        None => named?,
    };
    if kind == Some(Kind::Parquet) && regular {
        return Ok(Rows::Parquet(Box::new(parquet::Parquet::of_file(path, options)?)));
    }
    let mut source = Source::open(path)?;
    let kind = match kind {
        Some(kind) => kind,
        // Parquet by its first bytes.
        None if source.head().starts_with(b"PAR1") && regular => {
            return Ok(Rows::Parquet(Box::new(parquet::Parquet::of_file(path, options)?)));
        }
        None if !regular => kind::of_first_line(&mut source)?,
        None => Kind::Lines,
    };
    of_kind(kind, source, options)
}

/// The documents of what is open already.
fn of_kind(kind: Kind, source: Source, options: &Options) -> Result<Rows, Error> {
    if kind != Kind::Parquet
        && let Some(what) = kind::refused(source.head())
    {
        return Err(Error::file(source.path(), format!("is {what}")));
    }
    if !kind.is_table() && (options.column.is_some() || !options.fields.is_empty()) {
        let message = "has no columns: only JSON, .csv, .tsv and .parquet files have; --format says what it is";
        return Err(Error::file(source.path(), message));
    }
    Ok(match kind {
        Kind::Lines => Rows::Lines(lines::Lines::of(source)),
        Kind::Text => Rows::Whole(lines::Whole::of(source, options.fields.len())),
        Kind::Jsonl => Rows::JsonLines(json::JsonLines::of(source, options)),
        Kind::Json => Rows::Json(json::Json::of(source, options)),
        Kind::Csv => Rows::Csv(Box::new(csv::Csv::of(source, b',', options)?)),
        Kind::Tsv => Rows::Csv(Box::new(csv::Csv::of(source, b'\t', options)?)),
        Kind::Parquet => Rows::Parquet(Box::new(parquet::Parquet::of_source(source, options)?)),
    })
}
