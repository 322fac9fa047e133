//! Tokenizing a long text in pieces, in constant memory.
//!
//! A tokenizer takes a whole text and returns far more than an id per token, so a file of megabytes would need gigabytes. The text is therefore cut where
//! that changes nothing: at a position where the tokens around it are the same whether the two sides are encoded together or separately.

use std::io::Read;

use crate::tokenizer::Kind;
use crate::{Error, Tokenizer};

/// Bytes of text that are encoded together.
const PIECE: usize = 4 * 1024;
/// Bytes on either side of a cut whose tokens are compared.
const AROUND: usize = 512;
/// Candidate positions to try before more text is read.
const TRIES: usize = 32;

/// Reads a text and yields its tokens in pieces.
pub struct Pieces<'t, R> {
    tokenizer: &'t Tokenizer,
    text: R,
    name: String,
    /// Text that is not encoded yet, and the bytes of an incomplete character after it.
    pending: String,
    partial: Vec<u8>,
    read: u64,
    started: bool,
    ended: bool,
    /// The special tokens after the text.
    behind: Vec<u32>,
    /// Whether the text continues another one, so that no special tokens are added around it.
    continues: bool,
}

/// Where a text is cut, in bytes: where the one piece ends and the next begins.
#[derive(Clone, Copy)]
struct Cut {
    end: usize,
    next: usize,
}

impl<'t, R: Read> Pieces<'t, R> {
    /// Starts to tokenize `text`; `name` is its source in errors.
    pub fn new(tokenizer: &'t Tokenizer, text: R, name: impl Into<String>) -> Self {
        Self {
            tokenizer,
            text,
            name: name.into(),
            pending: String::new(),
            partial: Vec::new(),
            read: 0,
            started: false,
            ended: false,
            behind: Vec::new(),
            continues: false,
        }
    }

    /// The text continues another one if `yes`: no special tokens are added around it.
    #[must_use]
    pub fn continues(self, yes: bool) -> Self {
        Self { continues: yes, ..self }
    }

    /// Number of bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.read
    }

    /// The next tokens, `None` at the end. An error if the text is empty or not UTF-8, or cannot be read.
    pub fn next_piece(&mut self) -> Result<Option<Vec<u32>>, Error> {
        let mut want = PIECE;
        while !self.ended {
            self.fill(want)?;
            if self.ended {
                break;
            }
            if let Kind::World(world) = &self.tokenizer.kind {
                let settled = world.settled(&self.pending).map_err(|message| self.said(message))?;
                if let Some((ids, end)) = settled {
                    self.pending.drain(..end);
                    self.started = true;
                    return Ok(Some(ids));
                }
            } else if let Some(Cut { end, next }) = self.cut()? {
                let rest = self.pending.split_off(next);
                let mut piece = std::mem::replace(&mut self.pending, rest);
                piece.truncate(end);
                return self.encode(&piece).map(Some);
            }
            // No position for a cut so far: read twice as much.
            want = self.pending.len() * 2;
        }
        if self.pending.is_empty() {
            return if self.started { Ok(None) } else { Err(Error::Empty(self.name.clone())) };
        }
        let piece = std::mem::take(&mut self.pending);
        let mut ids = self.encode(&piece)?;
        ids.append(&mut self.behind);
        Ok(Some(ids))
    }

    fn fill(&mut self, want: usize) -> Result<(), Error> {
        let mut buffer = vec![0; PIECE];
        while self.pending.len() < want && !self.ended {
            let n = loop {
                match self.text.read(&mut buffer) {
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    other => break other.map_err(|source| Error::Io { path: self.name.clone().into(), source })?,
                }
            };
            self.ended = n == 0;
            self.partial.extend(&buffer[..n]);
            let valid = match std::str::from_utf8(&self.partial) {
                Ok(text) => text.len(),
                Err(e) if e.error_len().is_some() || self.ended => {
                    return Err(Error::NotUtf8 { name: self.name.clone(), at: self.read + e.valid_up_to() as u64 });
                }
                Err(e) => e.valid_up_to(),
            };
            let rest = self.partial.split_off(valid);
            let whole = std::mem::replace(&mut self.partial, rest);
            let first = self.read == 0;
            self.read += whole.len() as u64;
            let whole = String::from_utf8(whole).unwrap_or_default();
            // A byte order mark at the beginning is skipped.
            let text = if first { whole.strip_prefix('\u{feff}').unwrap_or(&whole) } else { &whole };
            self.pending.push_str(text);
        }
        Ok(())
    }

    /// The last position in the pending text where a cut changes no token.
    fn cut(&self) -> Result<Option<Cut>, Error> {
        let text = &self.pending;
        let end = floor(text, text.len().saturating_sub(AROUND));
        let mut tried = 0;
        let mut after = None;
        for (at, c) in text[..end].char_indices().rev() {
            // Candidates lie between a word and the white space after it.
            let place = c.is_alphanumeric() && after.is_some_and(|a: char| a.is_whitespace());
            after = Some(c);
            if !place || at < AROUND {
                continue;
            }
            let end = at + c.len_utf8();
            // A tokenizer that puts a space before whatever it encodes needs the next piece without the space that it begins with.
            let spaces = if text[end..].starts_with(' ') { 0..=1 } else { 0..=0 };
            for cut in spaces.map(|space| Cut { end, next: end + space }) {
                if self.harmless(cut)? {
                    return Ok(Some(cut));
                }
            }
            tried += 1;
            if tried == TRIES {
                break;
            }
        }
        Ok(None)
    }

    fn harmless(&self, Cut { end, next }: Cut) -> Result<bool, Error> {
        let text = &self.pending;
        let from = floor(text, end.saturating_sub(AROUND));
        let to = floor(text, (next + AROUND).min(text.len()));
        let ids = |part: &str| self.tokenizer.encode(part);
        let mut apart = ids(&text[from..end])?;
        apart.extend(ids(&text[next..to])?);
        Ok(apart == ids(&text[from..to])?)
    }

    /// Encodes a piece. The first piece gets the special tokens before the text; those after it are kept for the last piece.
    fn encode(&mut self, piece: &str) -> Result<Vec<u32>, Error> {
        if std::mem::replace(&mut self.started, true) || self.continues {
            return self.tokenizer.encode(piece);
        }
        let around = self.tokenizer.encode_around(piece)?;
        self.behind = around.behind;
        Ok(around.ids)
    }

    fn said(&self, message: String) -> Error {
        Error::Tokenizer { file: self.name.clone(), message }
    }
}

/// The nearest character boundary at or before `at`.
fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
