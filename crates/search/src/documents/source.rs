//! Text as it is found: read as UTF-8 whatever its byte order mark says it is, a line at a time whatever ends its lines.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::Error;

/// Bytes that say what a file is.
const HEAD: u64 = 512;

/// A text that is being read.
pub(super) struct Source {
    path: PathBuf,
    file: Option<String>,
    head: Vec<u8>,
    reader: BufReader<Box<dyn Read>>,
    /// Lines that were looked at, and where they begin.
    unread: VecDeque<(u64, Vec<u8>)>,
    /// Where the next byte lies, and whether the one before it was a `\r`.
    position: u64,
    after_return: bool,
    read: Rc<Cell<u64>>,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        Self::of(path.to_owned(), Some(path.display().to_string()), Box::new(file))
    }

    pub(super) fn standard() -> Result<Self, Error> {
        Self::of("standard input".into(), None, Box::new(io::stdin()))
    }

    fn of(path: PathBuf, file: Option<String>, reader: Box<dyn Read>) -> Result<Self, Error> {
        let read = Rc::new(Cell::new(0));
        let mut reader = Counted { reader, read: Rc::clone(&read) };
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

    /// The file's name in documents.
    pub(super) fn file(&self) -> Option<String> {
        self.file.clone()
    }

    /// The first bytes as they are stored.
    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }

    /// How many bytes have been read from the file.
    pub(super) fn bytes(&self) -> u64 {
        self.read.get()
    }

    /// An error with the file's name.
    pub(super) fn wrong(&self, message: impl Into<String>) -> Error {
        Error::file(&self.path, message)
    }

    /// The next line without its end, and where it begins; nothing behind the last one.
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

    /// The first line that is not blank; it and those before it are read again afterwards.
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

    /// The next bytes without taking them; none at the end.
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

    /// Takes so many of the bytes ahead.
    pub(super) fn take_bytes(&mut self, n: usize) {
        self.reader.consume(n);
    }
}

impl Read for Source {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.reader.read(to)
    }
}

/// What is wrong with a text that may not be one: that it is no UTF-8, or holds a NUL.
pub(super) fn checked(bytes: Vec<u8>) -> Result<String, String> {
    let text = utf8(bytes)?;
    match text.bytes().position(|b| b == 0) {
        Some(at) => Err(format!("a NUL at byte {at}: no text")),
        None => Ok(text),
    }
}

/// Bytes as a text, or what is wrong with them.
pub(super) fn utf8(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|e| format!("not UTF-8 at byte {}", e.utf8_error().valid_up_to()))
}

/// Counts the bytes that pass.
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

/// UTF-16 as UTF-8.
struct Utf16<R> {
    reader: R,
    big: bool,
    /// Bytes that are no whole character yet, and where they lie in the file.
    rest: Vec<u8>,
    at: u64,
    /// Text that is not handed out yet.
    text: Cursor<Vec<u8>>,
}

impl<R: Read> Utf16<R> {
    fn of(reader: R, big: bool) -> Self {
        Self { reader, big, rest: Vec::new(), at: 2, text: Cursor::new(Vec::new()) }
    }

    /// Reads more of the file; whether there was more.
    fn fill(&mut self) -> io::Result<bool> {
        let mut bytes = std::mem::take(&mut self.rest);
        let before = bytes.len();
        let n = (&mut self.reader).take(1 << 14).read_to_end(&mut bytes)?;
        debug_assert_eq!(bytes.len(), before + n);
        let unit = |two: &[u8; 2]| if self.big { u16::from_be_bytes(*two) } else { u16::from_le_bytes(*two) };
        let mut units: Vec<u16> = bytes.as_chunks().0.iter().map(unit).collect();
        // Half a pair at the end of what was read waits for its other half.
        if n > 0 && units.last().is_some_and(|last| (0xd800..0xdc00).contains(last)) {
            units.pop();
        }
        let used = 2 * units.len();
        if n == 0 && used < bytes.len() {
            return Err(self.wrong(self.at + used as u64, "half a character"));
        }
        let mut text = String::new();
        let mut at = self.at;
        for c in char::decode_utf16(units) {
            let c = c.map_err(|_| self.wrong(at, "half a surrogate pair"))?;
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
