//! Texts from lines, JSON lines, Parquet and folders, one at a time.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use serde_json::Value;

use crate::Error;

/// A text, and where it is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The text.
    pub text: String,
    /// The file it is from; nothing for standard input.
    pub file: Option<String>,
    /// Where in the file the text begins, in bytes, where the file is text.
    pub start: u64,
}

/// What documents are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Standard input, a line a document.
    Standard,
    /// A file: `.jsonl` or `.ndjson`, `.parquet`, or any other, a line a document.
    File(PathBuf),
    /// A folder: each text file in it, and in the folders in it, is a document. What is no text is left out.
    Folder(PathBuf),
}

impl Input {
    /// `-` is standard input.
    pub fn of(name: &str) -> Result<Self, Error> {
        if name == "-" {
            return Ok(Input::Standard);
        }
        let path = PathBuf::from(name);
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

    /// Its documents. `column` is the field or column that holds the text, of files that have such: `text` if none is named, or the only one that holds
    /// texts.
    pub fn documents(&self, column: Option<&str>) -> Result<Documents, Error> {
        let from = match self {
            Input::Standard => {
                From::Lines(Lines::of(PathBuf::from("standard input"), Box::new(std::io::stdin()), None))
            }
            Input::Folder(path) => From::Folder(Folder::of(path)?),
            Input::File(path) => {
                let kind = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
                let open = || File::open(path).map_err(|e| Error::io(path, e));
                match &kind[..] {
                    "parquet" => From::Table(Table::of(path, column)?),
                    "jsonl" | "ndjson" => {
                        From::Lines(Lines::of(path.clone(), Box::new(open()?), Some(column.map(str::to_owned))))
                    }
                    _ => From::Lines(Lines::of(path.clone(), Box::new(open()?), None)),
                }
            }
        };
        if column.is_some() && matches!(from, From::Folder(_) | From::Lines(Lines { json: None, .. })) {
            let message = "has no columns: only .jsonl and .parquet files have";
            return Err(Error::file(Path::new(&self.name()), message));
        }
        Ok(Documents { from, left_out: 0 })
    }

    /// How many bytes there are to read, where that is known.
    pub fn bytes(&self) -> Option<u64> {
        match self {
            Input::Standard => None,
            Input::File(path) => std::fs::metadata(path).ok().map(|about| about.len()),
            Input::Folder(path) => {
                let folder = Folder::of(path).ok()?;
                Some(folder.files.iter().filter_map(|f| std::fs::metadata(f).ok()).map(|about| about.len()).sum())
            }
        }
    }
}

/// Documents, one after another.
pub struct Documents {
    from: From,
    left_out: usize,
}

enum From {
    Lines(Lines),
    Table(Table),
    Folder(Folder),
}

impl Documents {
    /// The next document, and an estimate of how many bytes of the input have been read.
    #[allow(clippy::should_implement_trait, reason = "an iterator of results whose errors end it")]
    pub fn next(&mut self) -> Result<Option<(Document, u64)>, Error> {
        match &mut self.from {
            From::Lines(lines) => lines.next(),
            From::Table(table) => table.next(),
            From::Folder(folder) => folder.next(&mut self.left_out),
        }
    }

    /// How many files of a folder were no text.
    pub fn left_out(&self) -> usize {
        self.left_out
    }
}

/// What is wrong with a text that may not be one: that it is no UTF-8, or holds a NUL.
fn checked(bytes: Vec<u8>) -> Result<String, String> {
    let text = String::from_utf8(bytes).map_err(|e| format!("not UTF-8 at byte {}", e.utf8_error().valid_up_to()))?;
    match text.bytes().position(|b| b == 0) {
        Some(at) => Err(format!("a NUL at byte {at}: no text")),
        None => Ok(text),
    }
}

struct Lines {
    path: PathBuf,
    reader: BufReader<Box<dyn Read>>,
    /// Of JSON lines, the field that was asked for.
    json: Option<Option<String>>,
    line: u64,
    bytes: u64,
}

impl Lines {
    fn of(path: PathBuf, reader: Box<dyn Read>, json: Option<Option<String>>) -> Self {
        Self { path, reader: BufReader::new(reader), json, line: 0, bytes: 0 }
    }

    fn next(&mut self) -> Result<Option<(Document, u64)>, Error> {
        loop {
            let mut bytes = Vec::new();
            let n = self.reader.read_until(b'\n', &mut bytes).map_err(|e| Error::io(&self.path, e))?;
            if n == 0 {
                return Ok(None);
            }
            let start = self.bytes;
            self.line += 1;
            self.bytes += n as u64;
            while bytes.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
                bytes.pop();
            }
            let wrong = |message: String| Error::file(&self.path, format!("line {}: {message}", self.line));
            let line = checked(bytes).map_err(wrong)?;
            let text = match &self.json {
                None => line,
                // An empty line between objects is none.
                Some(_) if line.trim().is_empty() => continue,
                Some(column) => field(&line, column.as_deref()).map_err(wrong)?,
            };
            let file = (self.path.as_os_str() != "standard input").then(|| self.path.display().to_string());
            return Ok(Some((Document { text, file, start }, self.bytes)));
        }
    }
}

/// The text of a line of JSON.
fn field(line: &str, column: Option<&str>) -> Result<String, String> {
    let value: Value = serde_json::from_str(line).map_err(|e| format!("not JSON: {e}"))?;
    if let (Value::String(text), None) = (&value, column) {
        return Ok(text.clone());
    }
    let map = value.as_object().ok_or("want an object")?;
    let known = || map.keys().cloned().collect::<Vec<_>>().join(", ");
    let of = |name: &str| match map.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(format!("field `{name}`: want a text")),
        None => Err(format!("there is no field `{name}`; there are {}", known())),
    };
    if let Some(column) = column {
        return of(column);
    }
    if map.contains_key("text") {
        return of("text");
    }
    let texts: Vec<&String> = map.iter().filter(|(_, v)| v.is_string()).map(|(name, _)| name).collect();
    match &texts[..] {
        [one] => of(one),
        _ => Err(format!("which field holds the text? Name one with --column: {}", known())),
    }
}

struct Table {
    path: PathBuf,
    reader: ParquetRecordBatchReader,
    batch: Option<(ArrayRef, usize)>,
    rows: u64,
    of: u64,
    bytes: u64,
}

impl Table {
    fn of(path: &Path, column: Option<&str>) -> Result<Self, Error> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let bytes = file.metadata().map_or(0, |about| about.len());
        let wrong = |e: parquet::errors::ParquetError| Error::file(path, format!("no Parquet: {e}"));
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(wrong)?;
        let schema = builder.schema().clone();
        let is_text = |kind: &DataType| matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        let known = || schema.fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>().join(", ");
        let texts: Vec<&String> = schema.fields().iter().filter(|f| is_text(f.data_type())).map(|f| f.name()).collect();
        let name = match (column, &texts[..]) {
            (Some(name), _) => name.to_owned(),
            (None, texts) if texts.iter().any(|name| *name == "text") => "text".to_owned(),
            (None, [one]) => (*one).clone(),
            _ => {
                let message = format!("which column holds the text? Name one with --column: {}", known());
                return Err(Error::file(path, message));
            }
        };
        let Ok(at) = schema.index_of(&name) else {
            return Err(Error::file(path, format!("there is no column `{name}`; there are {}", known())));
        };
        if !is_text(schema.field(at).data_type()) {
            let found = schema.field(at).data_type();
            return Err(Error::file(path, format!("column `{name}`: want texts, found {found}")));
        }
        let of = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        let mask = ProjectionMask::roots(builder.parquet_schema(), [at]);
        let reader = builder.with_projection(mask).with_batch_size(1024).build().map_err(wrong)?;
        Ok(Self { path: path.to_owned(), reader, batch: None, rows: 0, of, bytes })
    }

    fn next(&mut self) -> Result<Option<(Document, u64)>, Error> {
        loop {
            if let Some((column, at)) = &mut self.batch
                && *at < column.len()
            {
                let i = *at;
                *at += 1;
                self.rows += 1;
                let text = match column.data_type() {
                    _ if column.is_null(i) => "",
                    DataType::LargeUtf8 => column.as_string::<i64>().value(i),
                    DataType::Utf8View => column.as_string_view().value(i),
                    _ => column.as_string::<i32>().value(i),
                };
                if let Some(at) = text.bytes().position(|b| b == 0) {
                    let message = format!("row {}: a NUL at byte {at}: no text", self.rows - 1);
                    return Err(Error::file(&self.path, message));
                }
                let file = Some(self.path.display().to_string());
                let done = (self.bytes as f64 * self.rows as f64 / self.of.max(1) as f64) as u64;
                return Ok(Some((Document { text: text.to_owned(), file, start: 0 }, done)));
            }
            match self.reader.next() {
                None => return Ok(None),
                Some(Err(e)) => return Err(Error::file(&self.path, format!("damaged: {e}"))),
                Some(Ok(batch)) => self.batch = Some((batch.column(0).clone(), 0)),
            }
        }
    }
}

struct Folder {
    files: Vec<PathBuf>,
    next: usize,
    bytes: u64,
}

/// Files this long are no documents.
const LARGEST: u64 = 1 << 30;

impl Folder {
    /// The files in a folder and the folders in it, hidden ones left out, in order of name.
    fn of(path: &Path) -> Result<Self, Error> {
        let mut files = Vec::new();
        let mut waiting = vec![path.to_owned()];
        while let Some(folder) = waiting.pop() {
            for entry in std::fs::read_dir(&folder).map_err(|e| Error::io(&folder, e))? {
                let entry = entry.map_err(|e| Error::io(&folder, e))?;
                if entry.file_name().to_string_lossy().starts_with('.') {
                    continue;
                }
                // Not through links: they may lead in circles.
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => waiting.push(entry.path()),
                    Ok(kind) if kind.is_file() => files.push(entry.path()),
                    _ => {}
                }
            }
        }
        files.sort();
        Ok(Self { files, next: 0, bytes: 0 })
    }

    fn next(&mut self, left_out: &mut usize) -> Result<Option<(Document, u64)>, Error> {
        while let Some(path) = self.files.get(self.next) {
            self.next += 1;
            let length = std::fs::metadata(path).map_err(|e| Error::io(path, e))?.len();
            self.bytes += length;
            let text = match length {
                0..=LARGEST => checked(std::fs::read(path).map_err(|e| Error::io(path, e))?).ok(),
                _ => None,
            };
            match text {
                Some(text) => {
                    let file = Some(path.display().to_string());
                    return Ok(Some((Document { text, file, start: 0 }, self.bytes)));
                }
                None => *left_out += 1,
            }
        }
        Ok(None)
    }
}
