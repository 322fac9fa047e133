//! A text source: decodes UTF-8 and UTF-16 by byte order mark, and splits lines at any line ending.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::compressed::Compression;
use crate::Error;

/// Number of leading bytes that are inspected to recognise a file.
const HEAD: u64 = 512;

/// An open text source.
pub(super) struct Source {
    path: PathBuf,
    file: Option<String>,
    head: Vec<u8>,
    reader: BufReader<Box<dyn Read>>,
    /// Lines that were read ahead, and their byte offsets.
    unread: VecDeque<(u64, Vec<u8>)>,
    /// Offset of the next byte, and whether the previous one was a `\r`.
    position: u64,
    after_return: bool,
    read: Rc<Cell<u64>>,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        Self::of(path.to_owned(), Some(path.display().to_string()), Box::new(file), Compression::of_name(path))
    }

    pub(super) fn standard() -> Result<Self, Error> {
        Self::of("standard input".into(), None, Box::new(io::stdin()), None)
    }

    fn of(
        path: PathBuf,
        file: Option<String>,
        reader: Box<dyn Read>,
        compression: Option<Compression>,
    ) -> Result<Self, Error> {
        let read = Rc::new(Cell::new(0));
        let reader = Counted { reader, read: Rc::clone(&read) };
        let mut reader: Box<dyn Read> = match compression {
            Some(compression) => compression.reader(reader).map_err(|e| Error::io(&path, e))?,
            None => Box::new(reader),
        };
        let mut head = Vec::new();
        (&mut reader).take(HEAD).read_to_end(&mut head).map_err(|e| Error::io(&path, e))?;
        let marks: [(&[u8], Option<bool>); 3] =
            [(b"\xef\xbb\xbf", None), (b"\xff\xfe", Some(false)), (b"\xfe\xff", Some(true))];
        let mark = marks.iter().find(|(mark, _)| head.starts_with(mark));
        let marked = mark.map_or(0, |(mark, _)| mark.len());
        let whole = Cursor::new(head[marked..].to_vec()).chain(reader);
        let (reader, position): (Box<dyn Read>, u64) = match mark {
            Some((_, Some(big))) => (Box::new(Utf16::of(whole, *big)), 0),
            _ => (Box::new(whole), marked as u64),
        };
        let reader = BufReader::with_capacity(1 << 16, reader);
        Ok(Self { path, file, head, reader, unread: VecDeque::new(), position, after_return: false, read })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file name recorded in documents.
    pub(super) fn file(&self) -> Option<String> {
        self.file.clone()
    }

    /// The first bytes of the file, undecoded.
    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }

    /// Number of bytes read from the file.
    pub(super) fn bytes(&self) -> u64 {
        self.read.get()
    }

    /// An error that names the file.
    pub(super) fn wrong(&self, message: impl Into<String>) -> Error {
        Error::file(&self.path, message)
    }

    /// The next line without its line ending, and its byte offset; `None` at the end.
    pub(super) fn line(&mut self) -> Result<Option<(u64, Vec<u8>)>, Error> {
        match self.unread.pop_front() {
            Some(line) => Ok(Some(line)),
            None => self.fresh_line().map_err(|e| Error::io(&self.path, e)),
        }
    }

    fn fresh_line(&mut self) -> io::Result<Option<(u64, Vec<u8>)>> {
        let mut line = Vec::new();
        let mut start = self.position;
        let mut begun = false;
        loop {
            let bytes = match self.reader.fill_buf() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if std::mem::take(&mut self.after_return) && bytes.first() == Some(&b'\n') {
                self.reader.consume(1);
                self.position += 1;
                start = self.position;
                continue;
            }
            if bytes.is_empty() {
                return Ok(begun.then_some((start, line)));
            }
            begun = true;
            let end = bytes.iter().position(|b| matches!(b, b'\n' | b'\r'));
            line.extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
            let n = end.map_or(bytes.len(), |end| end + 1);
            self.after_return = end.is_some_and(|end| bytes[end] == b'\r');
            self.reader.consume(n);
            self.position += n as u64;
            if end.is_some() {
                return Ok(Some((start, line)));
            }
        }
    }

    /// The first non-blank line; [`Source::line`] will return it and the lines before it again.
    pub(super) fn first_line(&mut self) -> Result<Option<&[u8]>, Error> {
        while let Some(line) = self.fresh_line().map_err(|e| Error::io(&self.path, e))? {
            let blank = line.1.trim_ascii().is_empty();
            self.unread.push_back(line);
            if !blank {
                break;
            }
        }
        Ok(self.unread.back().map(|(_, line)| &line[..]))
    }

    /// Peeks at the next bytes; empty at the end.
    pub(super) fn bytes_ahead(&mut self) -> Result<&[u8], Error> {
        loop {
            match self.reader.fill_buf() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(&self.path, e)),
                Ok(_) => break,
            }
        }
        Ok(self.reader.buffer())
    }

    /// Consumes `n` of the bytes ahead.
    pub(super) fn take_bytes(&mut self, n: usize) {
        self.reader.consume(n);
    }
}

impl Read for Source {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.reader.read(to)
    }
}

/// Decodes a text; an error if it is not UTF-8 or contains a NUL.
pub(super) fn checked(bytes: Vec<u8>) -> Result<String, String> {
    let text = utf8(bytes)?;
    match text.bytes().position(|b| b == 0) {
        Some(at) => Err(format!("a NUL at byte {at}: not text")),
        None => Ok(text),
    }
}

/// Decodes UTF-8; the error gives the offset of the first invalid byte.
pub(super) fn utf8(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|e| format!("not UTF-8 at byte {}", e.utf8_error().valid_up_to()))
}

/// A reader that counts its bytes.
struct Counted<R> {
    reader: R,
    read: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(to)?;
        self.read.set(self.read.get() + n as u64);
        Ok(n)
    }
}

/// Transcodes UTF-16 to UTF-8.
struct Utf16<R> {
    reader: R,
    big: bool,
    /// Bytes of an incomplete character, and their offset in the file.
    rest: Vec<u8>,
    at: u64,
    /// Transcoded text that was not returned yet.
    text: Cursor<Vec<u8>>,
}

impl<R: Read> Utf16<R> {
    fn of(reader: R, big: bool) -> Self {
        Self { reader, big, rest: Vec::new(), at: 2, text: Cursor::new(Vec::new()) }
    }

    /// Transcodes more of the file; false at its end.
    fn fill(&mut self) -> io::Result<bool> {
        let mut bytes = std::mem::take(&mut self.rest);
        let before = bytes.len();
        let n = (&mut self.reader).take(1 << 14).read_to_end(&mut bytes)?;
        debug_assert_eq!(bytes.len(), before + n);
        let unit = |two: &[u8; 2]| if self.big { u16::from_be_bytes(*two) } else { u16::from_le_bytes(*two) };
        let mut units: Vec<u16> = bytes.as_chunks().0.iter().map(unit).collect();
        // A high surrogate at the end of the chunk waits for its low surrogate.
        if n > 0 && units.last().is_some_and(|last| (0xd800..0xdc00).contains(last)) {
            units.pop();
        }
        let used = 2 * units.len();
        if n == 0 && used < bytes.len() {
            return Err(self.wrong(self.at + used as u64, "an incomplete character"));
        }
        let mut text = String::new();
        let mut at = self.at;
        for c in char::decode_utf16(units) {
            let c = c.map_err(|_| self.wrong(at, "an unpaired surrogate"))?;
            at += 2 * c.len_utf16() as u64;
            text.push(c);
        }
        self.at = at;
        self.rest = bytes.split_off(used);
        self.text = Cursor::new(text.into_bytes());
        Ok(n > 0)
    }

    fn wrong(&self, at: u64, what: &str) -> io::Error {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("not UTF-16, as its byte order mark says: {what} at byte {at}"),
        )
    }
}

impl<R: Read> Read for Utf16<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.text.read(to)?;
            if n > 0 || to.is_empty() || !self.fill()? {
                return Ok(n);
            }
        }
    }
}
