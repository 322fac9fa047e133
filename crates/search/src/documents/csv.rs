//! Rows of delimiter-separated values with a header row: RFC 4180 quoting, any line ending, blank lines skipped.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::column::{choose, find};
use super::source::{Source, utf8};
use super::{Document, Options, Place};
use crate::Error;

/// A table of delimiter-separated values.
pub(super) struct Csv {
    rows: Records,
    names: Vec<String>,
    asked: Option<String>,
    asked_fields: Vec<String>,
    /// Indices of the text column and of the copied columns, decided at the first row.
    decided: Option<(usize, Vec<usize>)>,
}

impl Csv {
    pub(super) fn of(source: Source, separator: u8, options: &Options) -> Result<Self, Error> {
        let reader = ReaderBuilder::new().delimiter(separator).build();
        let mut rows = Records {
            source,
            reader,
            separator,
            at: Quote::Start,
            after_return: false,
            line: 1,
            bytes: vec![0; 1 << 10],
            ends: vec![0; 16],
            values: 0,
        };
        let mut names = Vec::new();
        if let Some(line) = rows.next()? {
            for i in 0..rows.values {
                let name = utf8(rows.value(i).to_vec());
                names.push(name.map_err(|message| rows.source.wrong(format!("line {line}: {message}")))?);
            }
        }
        if let [one] = &names[..]
            && let Some(other) = [';', '\t', ',', '|'].into_iter().find(|c| one.contains(*c))
            && options.column.is_none()
        {
            let want =
                if separator == b',' { "commas (or tabs: --format tsv)" } else { "tabs (or commas: --format csv)" };
            let message = format!("line 1: there is one column, `{one}`: want {want}, found {other:?}");
            return Err(rows.source.wrong(message));
        }
        let (asked, asked_fields) = (options.column.clone(), options.fields.clone());
        Ok(Self { rows, names, asked, asked_fields, decided: None })
    }

    pub(super) fn next(&mut self) -> Result<Option<(Document, u64)>, Error> {
        let Some(line) = self.rows.next()? else { return Ok(None) };
        let wrong = |message: String| self.rows.source.wrong(format!("line {line}: {message}"));
        let (found, want) = (self.rows.values, self.names.len());
        if found != want {
            let message = format!("want {want} values, as in the header, found {found}");
            return Err(wrong(message));
        }
        let decided = match self.decided.take() {
            Some(decided) => decided,
            None => self.decide().map_err(wrong)?,
        };
        let value = |i: usize| {
            let text = utf8(self.rows.value(i).to_vec());
            text.map_err(|message| wrong(format!("column `{}`: {message}", self.names[i])))
        };
        let text = value(decided.0)?;
        let fields = decided.1.iter().map(|i| value(*i).map(Some)).collect::<Result<_, _>>()?;
        let source = &self.rows.source;
        let document = Document { text, file: source.file(), start: 0, place: Place::Line(line), fields };
        let bytes = source.bytes();
        self.decided = Some(decided);
        Ok(Some((document, bytes)))
    }

    /// Chooses the columns by their names and the first row, where a number is not a string.
    fn decide(&self) -> Result<(usize, Vec<usize>), String> {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let texts: Vec<bool> = (0..names.len())
            .map(|i| {
                let value = std::str::from_utf8(self.rows.value(i)).unwrap_or_default().trim();
                names.len() == 1 || !(value.is_empty() || value.parse::<f64>().is_ok())
            })
            .collect();
        let column = choose(self.asked.as_deref(), &names, &texts, "column")?;
        let fields = self.asked_fields.iter().map(|name| find(name, &names, "column")).collect::<Result<_, _>>()?;
        Ok((column, fields))
    }
}

/// The quoting state within a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quote {
    /// Before the first byte of a value.
    Start,
    Plain,
    Inside,
    /// After a quote inside quotes: the end of the value, or the first of two that escape one.
    Closing,
}

/// A reader of rows.
struct Records {
    source: Source,
    reader: Reader,
    separator: u8,
    at: Quote,
    after_return: bool,
    /// The line of the next byte.
    line: u64,
    /// The concatenated values of the row, and the end offset of each.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    values: usize,
}

impl Records {
    /// Reads a row and returns the line on which it begins; `None` at the end.
    fn next(&mut self) -> Result<Option<u64>, Error> {
        while let Some(b'\r' | b'\n') = self.source.bytes_ahead()?.first() {
            self.pass(1)?;
        }
        let line = self.line;
        let (mut written, mut ended) = (0, 0);
        loop {
            let ahead = self.source.bytes_ahead()?;
            let last = ahead.is_empty();
            let (result, n, out, ends) =
                self.reader.read_record(ahead, &mut self.bytes[written..], &mut self.ends[ended..]);
            self.pass(n)?;
            written += out;
            ended += ends;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => self.bytes.resize(2 * self.bytes.len(), 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(2 * self.ends.len(), 0),
                // `csv_core` accepts an unclosed quote at the end of the input.
                _ if last && self.at == Quote::Inside => {
                    return Err(self.source.wrong(format!("line {line}: a quoted value is not closed with `\"`")));
                }
                ReadRecordResult::Record => {
                    self.values = ended;
                    return Ok(Some(line));
                }
                ReadRecordResult::End => return Ok(None),
            }
        }
    }

    /// A value of the row.
    fn value(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.bytes[start..self.ends[i]]
    }

    /// Consumes `n` bytes and updates the line number and the quoting state.
    fn pass(&mut self, n: usize) -> Result<(), Error> {
        let (mut at, mut line, mut after_return) = (self.at, self.line, self.after_return);
        for byte in &self.source.bytes_ahead()?[..n] {
            at = match (at, *byte) {
                (Quote::Inside, b'"') => Quote::Closing,
                (Quote::Inside, _) | (Quote::Closing | Quote::Start, b'"') => Quote::Inside,
                (_, b'\n' | b'\r') => Quote::Start,
                (_, byte) if byte == self.separator => Quote::Start,
                _ => Quote::Plain,
            };
            line += u64::from(*byte == b'\r' || (*byte == b'\n' && !after_return));
            after_return = *byte == b'\r';
        }
        (self.at, self.line, self.after_return) = (at, line, after_return);
        self.source.take_bytes(n);
        Ok(())
    }
}
