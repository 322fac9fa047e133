//! Plain text: one document per line, or one per file.

use super::source::{Source, checked};
use super::{Document, Place};
use crate::Error;

/// One document per line.
pub(super) struct Lines {
    source: Source,
    line: u64,
}

impl Lines {
    pub(super) fn of(source: Source) -> Self {
        Self { source, line: 0 }
    }

    pub(super) fn next(&mut self) -> Result<Option<(Document, u64)>, Error> {
        let Some((start, line)) = self.source.line()? else { return Ok(None) };
        self.line += 1;
        let wrong = |message| self.source.wrong(format!("line {}: {message}", self.line));
        let text = checked(line).map_err(wrong)?;
        let place = Place::Line(self.line);
        let document = Document { text, file: self.source.file(), start, place, fields: Vec::new() };
        Ok(Some((document, self.source.bytes())))
    }
}

/// One document per file.
pub(super) struct Whole {
    source: Option<Source>,
    fields: usize,
}

impl Whole {
    pub(super) fn of(source: Source, fields: usize) -> Self {
        Self { source: Some(source), fields }
    }

    pub(super) fn next(&mut self) -> Result<Option<(Document, u64)>, Error> {
        let Some(mut source) = self.source.take() else { return Ok(None) };
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut source, &mut bytes).map_err(|e| Error::io(source.path(), e))?;
        let text = checked(bytes).map_err(|message| source.wrong(message))?;
        let start = if source.head().starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        let fields = vec![None; self.fields];
        let document = Document { text, file: source.file(), start, place: Place::Whole, fields };
        Ok(Some((document, source.bytes())))
    }
}
