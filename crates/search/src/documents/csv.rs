//! Rows from separated values with a row of names: RFC 4180's quotes, any line ends, blank lines between rows skipped.

use std::io::{self, Read};

use ::csv::{ByteRecord, ErrorKind, Reader, ReaderBuilder};

use super::column::{choose, find};
use super::source::{Source, utf8};
use super::{Document, Options, Place};
use crate::Error;

/// A table of separated values.
pub(super) struct Csv {
    reader: Reader<Quoted>,
    names: Vec<String>,
    separator: u8,
    asked: Option<String>,
    asked_fields: Vec<String>,
    /// The column of the text and those that are carried, once the first row has decided.
    decided: Option<(usize, Vec<usize>)>,
    record: ByteRecord,
}

impl Csv {
    pub(super) fn of(source: Source, separator: u8, options: &Options) -> Result<Self, Error> {
        let quoted = Quoted { source, separator, at: Quote::Start, open: false };
        let mut reader = ReaderBuilder::new().delimiter(separator).from_reader(quoted);
        let names = reader.byte_headers().map(|names| names.iter().map(<[u8]>::to_vec).collect::<Vec<_>>());
        let names = names.map_err(|e| wrong(&reader.get_ref().source, &e))?;
        let source = &reader.get_ref().source;
        let names: Result<Vec<String>, String> = names.into_iter().map(utf8).collect();
        let names = names.map_err(|message| source.wrong(format!("line 1: {message}")))?;
        if let [one] = &names[..]
            && let Some(other) = [';', '\t', ',', '|'].into_iter().find(|c| one.contains(*c))
            && options.column.is_none()
        {
            let want =
                if separator == b',' { "commas (or tabs: --format tsv)" } else { "tabs (or commas: --format csv)" };
            return Err(source.wrong(format!("line 1: there is one column, `{one}`: want {want}, found {other:?}")));
        }
        let (asked, asked_fields) = (options.column.clone(), options.fields.clone());
        Ok(Self { reader, names, separator, asked, asked_fields, decided: None, record: ByteRecord::new() })
    }

    pub(super) fn next(&mut self) -> Result<Option<(Document, u64)>, Error> {
        let more = self.reader.read_byte_record(&mut self.record);
        let source = &self.reader.get_ref().source;
        let more = more.map_err(|e| wrong(source, &e))?;
        let line = self.record.position().map_or(0, |position| position.line());
        if self.reader.get_ref().open {
            let line = if more { line } else { 1 };
            return Err(source.wrong(format!("line {line}: a quoted value is not closed with `\"`")));
        }
        if !more {
            return Ok(None);
        }
        let row = self.row().map_err(|message| source.wrong(format!("line {line}: {message}")))?;
        let (decided, text, fields) = row;
        let document = Document { text, file: source.file(), start: 0, place: Place::Line(line), fields };
        let bytes = source.bytes();
        self.decided = Some(decided);
        Ok(Some((document, bytes)))
    }

    /// The columns that count in the row that was read, its text and its fields.
    #[allow(clippy::type_complexity, reason = "what a row is, in the one place where it is read")]
    fn row(&self) -> Result<((usize, Vec<usize>), String, Vec<Option<String>>), String> {
        let (column, carried) = match &self.decided {
            Some(decided) => decided.clone(),
            None => self.decide()?,
        };
        let value = |i: usize| {
            let bytes = self.record.get(i).unwrap_or_default().to_vec();
            utf8(bytes).map_err(|message| format!("column `{}`: {message}", self.names[i]))
        };
        let text = value(column)?;
        let fields = carried.iter().map(|i| value(*i).map(Some)).collect::<Result<_, _>>()?;
        Ok(((column, carried), text, fields))
    }

    /// By the names, and by the first row: what is a number there is no text.
    fn decide(&self) -> Result<(usize, Vec<usize>), String> {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let texts: Vec<bool> = (0..names.len())
            .map(|i| {
                let value = std::str::from_utf8(self.record.get(i).unwrap_or_default()).unwrap_or_default().trim();
                names.len() == 1 || !(value.is_empty() || value.parse::<f64>().is_ok())
            })
            .collect();
        let column = choose(self.asked.as_deref(), &names, &texts, "column")?;
        let fields = self.asked_fields.iter().map(|name| find(name, &names, "column")).collect::<Result<_, _>>()?;
        Ok((column, fields))
    }
}

impl std::fmt::Debug for Csv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Csv").field("names", &self.names).field("separator", &self.separator).finish_non_exhaustive()
    }
}

fn wrong(source: &Source, error: &::csv::Error) -> Error {
    match error.kind() {
        ErrorKind::Io(e) => Error::io(source.path(), io::Error::new(e.kind(), e.to_string())),
        ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.as_ref().map_or(0, |pos| pos.line());
            source.wrong(format!(
                "line {line}: want {expected_len} values, as there are names in the first line, found {len}"
            ))
        }
        _ => source.wrong(format!("no table of separated values: {error}")),
    }
}

/// Where in a value a byte is, as far as quotes go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quote {
    /// Before the first byte of a value.
    Start,
    Plain,
    Inside,
    /// Behind a quote inside quotes: the value is over, or this was the first of two that stand for one.
    Closing,
}

/// A text of separated values, and whether it ended within quotes, which the reader takes for the end of a value.
struct Quoted {
    source: Source,
    separator: u8,
    at: Quote,
    open: bool,
}

impl Read for Quoted {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(to)?;
        for byte in &to[..n] {
            self.at = match (self.at, *byte) {
                (Quote::Inside, b'"') => Quote::Closing,
                (Quote::Inside, _) | (Quote::Closing | Quote::Start, b'"') => Quote::Inside,
                (_, b'\n' | b'\r') => Quote::Start,
                (_, byte) if byte == self.separator => Quote::Start,
                _ => Quote::Plain,
            };
        }
        self.open = n == 0 && !to.is_empty() && self.at == Quote::Inside;
        Ok(n)
    }
}
