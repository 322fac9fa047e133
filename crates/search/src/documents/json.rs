//! Rows of JSON: one value per line, an array of values, or a sequence of values.

use longreach_models::json::parse;
use serde_json::{Map, Value};

use super::column::{choose, missing};
use super::kind::NULL;
use super::source::{Source, utf8};
use super::{Document, Options, Place};
use crate::Error;

/// One value per line.
pub(super) struct JsonLines {
    source: Source,
    shape: Shape,
    line: u64,
}

impl JsonLines {
    pub(super) fn of(source: Source, options: &Options) -> Self {
        Self { source, shape: Shape::of(options), line: 0 }
    }

    pub(super) fn next(&mut self) -> Result<Option<(Document, u64)>, Error> {
        while let Some((_, line)) = self.source.line()? {
            self.line += 1;
            // Blank lines are skipped.
            if line.trim_ascii().is_empty() {
                continue;
            }
            return self.shape.document(&self.source, self.line, line).map(Some);
        }
        Ok(None)
    }
}

impl JsonLines {
    /// Skips up to `rows` rows, and returns how many there were.
    pub(super) fn skip(&mut self, rows: u64) -> Result<u64, Error> {
        let mut skipped = 0;
        while skipped < rows {
            let Some((_, line)) = self.source.line()? else { break };
            self.line += 1;
            skipped += u64::from(!line.trim_ascii().is_empty());
        }
        Ok(skipped)
    }
}

/// The elements of one array, or a sequence of values.
pub(super) struct Json {
    source: Source,
    shape: Shape,
    line: u64,
    after_return: bool,
    at: At,
}

/// Position of the reader between values.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Start,
    /// In an array: before its first element, or after an element.
    First,
    Behind,
    /// Between values outside an array.
    Bare,
    End,
}

impl Json {
    pub(super) fn of(source: Source, options: &Options) -> Self {
        Self { source, shape: Shape::of(options), line: 1, after_return: false, at: At::Start }
    }

    pub(super) fn next(&mut self) -> Result<Option<(Document, u64)>, Error> {
        loop {
            let Some(byte) = self.visible()? else {
                return match self.at {
                    At::First | At::Behind => Err(self.wrong("the array is not closed: the file is truncated")),
                    _ => Ok(None),
                };
            };
            match (self.at, byte) {
                (At::Start, b'[') => {
                    self.take(byte);
                    self.at = At::First;
                }
                (At::Start | At::Bare, _) => {
                    self.at = At::Bare;
                    return self.value().map(Some);
                }
                (At::First | At::Behind, b']') => {
                    self.take(byte);
                    self.at = At::End;
                }
                (At::First, _) => {
                    self.at = At::Behind;
                    return self.value().map(Some);
                }
                (At::Behind, b',') => {
                    self.take(byte);
                    self.visible()?;
                    return self.value().map(Some);
                }
                (At::Behind, _) => return Err(self.wrong("not JSON: want `,` or `]` after an element")),
                (At::End, _) => return Err(self.wrong("not JSON: unexpected data after the array")),
            }
        }
    }

    fn wrong(&self, message: &str) -> Error {
        self.source.wrong(format!("line {}: {message}", self.line))
    }

    /// Skips white space and peeks at the next byte.
    fn visible(&mut self) -> Result<Option<u8>, Error> {
        loop {
            match self.source.bytes_ahead()?.first().copied() {
                Some(byte) if byte.is_ascii_whitespace() => self.take(byte),
                other => return Ok(other),
            }
        }
    }

    fn take(&mut self, byte: u8) {
        self.source.take_bytes(1);
        self.line += u64::from(byte == b'\r' || (byte == b'\n' && !self.after_return));
        self.after_return = byte == b'\r';
    }

    /// Reads the value that begins here, up to its closing bracket or quote.
    fn value(&mut self) -> Result<(Document, u64), Error> {
        let begun = self.line;
        let mut bytes = Vec::new();
        let (mut depth, mut in_string, mut escaped) = (0u64, false, false);
        while let Some(byte) = self.source.bytes_ahead()?.first().copied() {
            let bare = depth == 0 && !in_string && !bytes.is_empty();
            if bare && (byte.is_ascii_whitespace() || matches!(byte, b',' | b']' | b'}')) {
                break;
            }
            self.take(byte);
            bytes.push(byte);
            if in_string {
                in_string = escaped || byte != b'"';
                escaped = byte == b'\\' && !escaped;
            } else {
                match byte {
                    b'"' => in_string = true,
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth = depth.saturating_sub(1),
                    _ => continue,
                }
            }
            if depth == 0 && !in_string {
                break;
            }
        }
        if depth > 0 || in_string {
            let message = format!("line {begun}: not JSON: the value that begins here does not end");
            return Err(self.source.wrong(message));
        }
        self.shape.document(&self.source, begun, bytes)
    }
}

/// The shape of the rows, decided by the first one.
struct Shape {
    asked: Option<String>,
    fields: Vec<String>,
    decided: Option<Decided>,
}

enum Decided {
    /// Rows are strings.
    Texts,
    /// Rows are objects with the text in this field.
    Field { name: String },
}

impl Shape {
    fn of(options: &Options) -> Self {
        Self { asked: options.column.clone(), fields: options.fields.clone(), decided: None }
    }

    /// Parses the value that begins on `line` into a document; also returns the number of bytes read.
    fn document(&mut self, source: &Source, line: u64, bytes: Vec<u8>) -> Result<(Document, u64), Error> {
        let row = utf8(bytes).and_then(|text| {
            let value = parse(&text, NULL).map_err(|e| format!("not JSON: {e}"))?;
            self.row(value)
        });
        let (text, fields) = row.map_err(|message| source.wrong(format!("line {line}: {message}")))?;
        let document = Document { text, file: source.file(), start: 0, place: Place::Line(line), fields };
        Ok((document, source.bytes()))
    }

    fn row(&mut self, value: Value) -> Result<(String, Vec<Option<String>>), String> {
        if self.decided.is_none() {
            self.decided = Some(self.decide(&value)?);
        }
        match (&self.decided, value) {
            (Some(Decided::Texts), Value::String(text)) => Ok((text, Vec::new())),
            (Some(Decided::Texts), Value::Null) => Ok((String::new(), Vec::new())),
            (Some(Decided::Texts), other) => Err(format!("want a string, like the first value; found {}", a(&other))),
            (Some(Decided::Field { name }), Value::Object(map)) => self.object(name, map),
            (_, other) => Err(format!("want an object, found {}", a(&other))),
        }
    }

    fn decide(&self, first: &Value) -> Result<Decided, String> {
        match first {
            Value::String(_) | Value::Null if self.asked.is_none() && self.fields.is_empty() => Ok(Decided::Texts),
            Value::Object(map) => {
                let names: Vec<&str> = map.keys().map(String::as_str).collect();
                let texts: Vec<bool> = map.values().map(Value::is_string).collect();
                let chosen = choose(self.asked.as_deref(), &names, &texts, "field")?;
                match self.fields.iter().find(|name| !map.contains_key(*name)) {
                    Some(name) => Err(missing(name, names.into_iter(), "field")),
                    None => Ok(Decided::Field { name: names[chosen].to_owned() }),
                }
            }
            other => Err(format!("want an object, found {}", a(other))),
        }
    }

    fn object(&self, name: &str, mut map: Map<String, Value>) -> Result<(String, Vec<Option<String>>), String> {
        let fields = self.fields.iter().map(|name| carried(map.get(name))).collect();
        // The first row had no field `text`, or it would have been chosen.
        if self.asked.is_none() && name != "text" && map.contains_key("text") {
            return Err(format!(
                "there is a field `text`, but the first row has only `{name}`: name one with --column"
            ));
        }
        match map.remove(name) {
            Some(Value::String(text)) => Ok((text, fields)),
            Some(Value::Null) => Ok((String::new(), fields)),
            // A list or a number that is copied as well need not be text.
            Some(other) if self.fields.iter().any(|field| field == name) => Ok((other.to_string(), fields)),
            Some(other) => Err(format!("field `{name}`: want a string, found {}", a(&other))),
            None => Err(missing(name, map.keys().map(String::as_str), "field")),
        }
    }
}

/// A value as a string: strings unchanged, anything else as JSON, null as `None`.
fn carried(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// Describes a value for errors.
fn a(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => format!("the number {n}"),
        Value::String(_) => "a string".into(),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
    }
}
