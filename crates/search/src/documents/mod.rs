//! Readers of documents from lines, tables (JSON, CSV, Parquet) and folders, one document at a time.
//!
//! The format of a file and the column that holds the text are decided once per file, from its name, its first bytes and its first row.
//!
//! Text is UTF-8, or UTF-16 if it starts with that byte order mark; byte order marks are removed. A line ends with `\n`, `\r\n` or `\r`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::Error;
use source::Source;

mod column;
mod compressed;
mod csv;
mod folder;
mod json;
mod kind;
mod lines;
mod parquet;
mod shard;
mod source;

pub(crate) use folder::whole;
pub use kind::Kind;
pub use shard::Shard;

/// A text and its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The text.
    pub text: String,
    /// The file it is from; `None` for standard input.
    pub file: Option<String>,
    /// Byte offset of the text in the file (in UTF-8); 0 for rows of tables.
    pub start: u64,
    /// The line or row of the file that it is.
    pub place: Place,
    /// The values of [`Options::fields`] as strings; `None` where a value is missing or null.
    pub fields: Vec<Option<String>>,
}

impl Document {
    /// Its origin for messages: the file, and the line or row.
    pub fn origin(&self) -> String {
        let file = self.file.as_deref().unwrap_or("standard input");
        match self.place {
            Place::Line(line) => format!("{file}: line {line}"),
            Place::Row(row) => format!("{file}: row {row}"),
            Place::Whole => file.to_owned(),
        }
    }
}

/// The position of a document in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line, counted from 1; for a row of a table, the line on which it begins.
    Line(u64),
    /// A row, counted from 0.
    Row(u64),
    /// The whole file.
    Whole,
}

/// How documents are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Format of the input, or of each file of a folder; detected from names and first bytes if `None`.
    pub format: Option<Kind>,
    /// Column that holds the text; if `None`, `text`, or else the only column of strings.
    pub column: Option<String>,
    /// Columns whose values are copied along with the text.
    pub fields: Vec<String>,
    /// Files and folders to skip in a folder: the outputs of the job itself.
    pub leave_out: Vec<PathBuf>,
    /// The documents to read; all of them if `None`.
    pub shard: Option<Shard>,
}

/// The source of documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Standard input: JSON Lines if its first non-blank line is a JSON object, otherwise one document per line.
    Standard,
    /// A file: `.jsonl`, `.ndjson`, `.json`, `.csv` or `.tsv`, each also compressed as `.gz` or `.zst`, `.parquet`, or any other
    /// text file with one document per line.
    File(PathBuf),
    /// A folder, read recursively: each text file is a document, and so is each row of a table. Symbolic links are followed. Hidden files, and files that are
    /// not text, are skipped.
    Folder(PathBuf),
}

impl Input {
    /// The input of this name, where `-` is standard input; an error if there is no such file.
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

    /// The kind of input: standard input, file or folder.
    pub fn kind(&self) -> &'static str {
        match self {
            Input::Standard => "standard input",
            Input::File(_) => "file",
            Input::Folder(_) => "folder",
        }
    }

    /// Opens the input with default options except for the column that holds the text.
    pub fn documents(&self, column: Option<&str>) -> Result<Documents, Error> {
        self.read(&Options { column: column.map(str::to_owned), ..Options::default() })
    }

    /// Opens the input. An error if the format is not supported or the requested columns do not exist.
    pub fn read(&self, options: &Options) -> Result<Documents, Error> {
        let rows = match self {
            Input::Folder(path) => Rows::Folder(Box::new(folder::Folder::of(path, options)?)),
            Input::File(path) => of_file(path, options)?,
            Input::Standard => {
                let mut source = Source::standard()?;
                let kind = options.format.map_or_else(|| kind::of_first_line(&mut source), Ok)?;
                of_kind(kind, source, options)?
            }
        };
        Ok(Documents { rows, shard: options.shard, passed: 0 })
    }

    /// Reads the first document as a check; does nothing for standard input and pipes, which cannot be read twice.
    pub fn check(&self, options: &Options) -> Result<(), Error> {
        let again = match self {
            Input::Standard => false,
            Input::Folder(_) => true,
            Input::File(path) => std::fs::metadata(path).is_ok_and(|about| about.is_file()),
        };
        // A shard may be empty; its input may not.
        let options = &Options { shard: None, ..options.clone() };
        if again && self.read(options)?.next()?.is_none() {
            return Err(self.nothing());
        }
        Ok(())
    }

    /// The error for an input without documents.
    pub(crate) fn nothing(&self) -> Error {
        let message = match self {
            Input::Standard | Input::File(_) => "holds no document",
            Input::Folder(_) => "holds no document: there is no text file in it (hidden files are skipped)",
        };
        Error::file(Path::new(&self.name()), message)
    }

    /// The files to read; none for standard input.
    pub fn files(&self) -> Result<Vec<PathBuf>, Error> {
        Ok(match self {
            Input::Standard => Vec::new(),
            Input::File(path) => vec![path.clone()],
            Input::Folder(path) => folder::Folder::of(path, &Options::default())?.files().to_vec(),
        })
    }

    /// Total size in bytes, if known.
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

/// A reader of documents.
pub struct Documents {
    rows: Rows,
    shard: Option<Shard>,
    /// How many documents were read, those of other shards included.
    passed: u64,
}

/// The reader of a format or folder.
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
    /// The next document, and approximately how many bytes of the input have been read.
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
    /// The next document, and approximately how many bytes of the input have been read; `None` at the end. Errors name the file and the line or row.
    #[allow(clippy::should_implement_trait, reason = "an iterator of results whose errors end it")]
    pub fn next(&mut self) -> Result<Option<(Document, u64)>, Error> {
        loop {
            let Some(next) = self.rows.next()? else { return Ok(None) };
            let place = self.passed;
            self.passed += 1;
            if self.shard.is_none_or(|shard| shard.holds(place)) {
                return Ok(Some(next));
            }
        }
    }

    /// Number of documents read so far, those of other shards included.
    pub(crate) fn passed(&self) -> u64 {
        self.passed
    }

    /// Skips up to `rows` documents, and returns how many there were. Lines of JSON are not parsed.
    pub fn skip(&mut self, rows: u64) -> Result<u64, Error> {
        if let Rows::JsonLines(lines) = &mut self.rows {
            return lines.skip(rows);
        }
        for skipped in 0..rows {
            if self.next()?.is_none() {
                return Ok(skipped);
            }
        }
        Ok(rows)
    }

    /// Number of files of a folder that were skipped because they are not text.
    pub fn left_out(&self) -> usize {
        if let Rows::Folder(folder) = &self.rows { folder.left_out } else { 0 }
    }

    /// Number of symbolic links of a folder that are broken or form a cycle.
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
        // Parquet without its extension is recognised by its first bytes.
        None if source.head().starts_with(b"PAR1") && regular => {
            return Ok(Rows::Parquet(Box::new(parquet::Parquet::of_file(path, options)?)));
        }
        None if !regular => kind::of_first_line(&mut source)?,
        None => Kind::Lines,
    };
    of_kind(kind, source, options)
}

/// The documents of an open source.
fn of_kind(kind: Kind, source: Source, options: &Options) -> Result<Rows, Error> {
    if kind != Kind::Parquet
        && let Some(what) = kind::refused(source.head())
    {
        return Err(Error::file(source.path(), format!("is {what}")));
    }
    if !kind.is_table() && (options.column.is_some() || !options.fields.is_empty()) {
        let message = "has no columns: only JSON, CSV, TSV and Parquet files have columns (--format sets the format)";
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
