//! Streaming versions of the decoders of `tokenizers`: text is emitted as soon as no later token can change it, and the fragments concatenate to what the
//! decoder returns for all tokens at once.
//!
//! A decoder is a chain of links. Up to the link that joins the tokens (`Fuse`, `ByteLevel`), links map tokens to tokens and hold a token only while its text
//! may change: a run of byte tokens until it ends, since one invalid byte turns the whole run into replacement characters, and the last token of `BPEDecoder`,
//! whose suffix becomes a space if another token follows. After the joint, links map text to text. A link that cannot be streamed (a regular expression over
//! the joined text) holds all text until the end.

use std::sync::Arc;

use serde_json::Value;
use tokenizers::{Decoder, DecoderWrapper};

use crate::Error;

/// A decoder that takes one token at a time.
#[derive(Clone)]
pub(crate) struct TextStream {
    tokens: Vec<TokenLink>,
    joint: Joint,
    texts: Vec<TextLink>,
}

/// A link that maps tokens to tokens.
#[derive(Clone)]
enum TokenLink {
    /// Each token independently.
    Each(Arc<DecoderWrapper>),
    /// Each token independently, with a special case for the first.
    Placed { decoder: Arc<DecoderWrapper>, first: bool },
    /// `Strip`.
    Strip { content: char, start: usize, stop: usize },
    /// `CTC`: drops a token equal to the previous one.
    Distinct { decoder: Arc<DecoderWrapper>, last: Option<String> },
    /// `BPEDecoder`: every token but the last ends with a space.
    Suffixed { suffix: String, held: Option<String> },
    /// `ByteFallback`: the current run of byte tokens. If `middle`, leading bytes that continue an unseen character are skipped.
    Bytes { decoder: Arc<DecoderWrapper>, run: Vec<String>, middle: bool },
}

/// How tokens are joined.
#[derive(Clone)]
enum Joint {
    /// By concatenation.
    Nothing,
    /// With a space between them, which is the default without a decoder.
    Space { first: bool },
    /// As UTF-8 bytes, with U+FFFD for invalid sequences.
    Bytes { pending: Vec<u8>, middle: bool },
}

/// A link that maps text to text.
#[derive(Clone)]
enum TextLink {
    /// Each character independently.
    Each(Arc<DecoderWrapper>),
    /// `Strip`: how many characters may still be stripped at the start, and how many are held back as they may be the end.
    Strip { content: char, start: usize, stop: usize, held: usize },
    /// `Replace` of a literal string, and the text that may be the beginning of a match.
    Replace { pattern: String, content: String, held: String },
    /// Any other decoder, applied to the whole text at the end.
    Whole { decoder: Arc<DecoderWrapper>, held: String },
}

impl TextStream {
    /// The stream of a tokenizer's decoder, at the start of a text.
    pub(crate) fn new(decoder: Option<&DecoderWrapper>) -> Self {
        let mut stream = Self { tokens: Vec::new(), joint: Joint::Nothing, texts: Vec::new() };
        match decoder {
            None => stream.joint = Joint::Space { first: true },
            Some(decoder) => {
                stream.link(decoder, false);
            }
        }
        stream
    }

    /// The stream of a vocabulary of byte strings.
    pub(crate) fn bytes() -> Self {
        Self { tokens: Vec::new(), joint: Joint::Bytes { pending: Vec::new(), middle: false }, texts: Vec::new() }
    }

    /// Adds a link to the chain and returns whether tokens are joined after it.
    fn link(&mut self, decoder: &DecoderWrapper, mut joined: bool) -> bool {
        let shared = || Arc::new(decoder.clone());
        match decoder {
            DecoderWrapper::Sequence(chain) => {
                for decoder in chain.get_decoders() {
                    joined = self.link(decoder, joined);
                }
            }
            DecoderWrapper::Fuse(_) => joined = true,
            DecoderWrapper::Strip(strip) if joined => {
                let (content, start, stop) = (strip.content, strip.start, strip.stop);
                self.texts.push(TextLink::Strip { content, start, stop, held: 0 });
            }
            DecoderWrapper::Metaspace(_) if joined => self.texts.push(TextLink::Each(shared())),
            _ if joined => self.texts.push(match replaced(decoder) {
                Some((pattern, content)) => TextLink::Replace { pattern, content, held: String::new() },
                None => TextLink::Whole { decoder: shared(), held: String::new() },
            }),
            DecoderWrapper::ByteLevel(_) => {
                self.joint = Joint::Bytes { pending: Vec::new(), middle: false };
                joined = true;
            }
            DecoderWrapper::Strip(strip) => {
                let (content, start, stop) = (strip.content, strip.start, strip.stop);
                self.tokens.push(TokenLink::Strip { content, start, stop });
            }
            DecoderWrapper::WordPiece(_) | DecoderWrapper::Metaspace(_) => {
                self.tokens.push(TokenLink::Placed { decoder: shared(), first: true });
            }
            DecoderWrapper::CTC(_) => self.tokens.push(TokenLink::Distinct { decoder: shared(), last: None }),
            DecoderWrapper::BPE(bpe) => {
                self.tokens.push(TokenLink::Suffixed { suffix: bpe.suffix.clone(), held: None });
            }
            DecoderWrapper::ByteFallback(_) => {
                self.tokens.push(TokenLink::Bytes { decoder: shared(), run: Vec::new(), middle: false });
            }
            DecoderWrapper::Replace(_) => self.tokens.push(TokenLink::Each(shared())),
        }
        joined
    }

    /// Marks the stream as continuing a text that it has not seen.
    pub(crate) fn continue_unseen(&mut self) {
        for link in &mut self.tokens {
            match link {
                TokenLink::Placed { first, .. } => *first = false,
                TokenLink::Bytes { middle, .. } => *middle = true,
                _ => {}
            }
        }
        match &mut self.joint {
            Joint::Nothing => {}
            Joint::Space { first } => *first = false,
            Joint::Bytes { middle, .. } => *middle = true,
        }
        for link in &mut self.texts {
            if let TextLink::Strip { start, .. } = link {
                *start = 0;
            }
        }
    }

    /// The bytes of a token behind a text that is not known. `self` is at the start of a text.
    pub(crate) fn bytes_of(mut self, token: &str) -> Result<Vec<u8>, Error> {
        if matches!(self.joint, Joint::Bytes { .. }) {
            let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
            return Ok(bytes.unwrap_or_else(|| token.as_bytes().to_vec()));
        }
        let fallback = self.tokens.iter().any(|link| matches!(link, TokenLink::Bytes { .. }));
        if let Some(byte) = byte_token(token).filter(|_| fallback) {
            return Ok(vec![byte]);
        }
        self.continue_unseen();
        let text = self.push(token.to_owned())? + &self.finish()?;
        Ok(text.into_bytes())
    }

    /// Decodes one more token and returns the text that is final.
    pub(crate) fn push(&mut self, token: String) -> Result<String, Error> {
        self.carry(0, vec![token])
    }

    /// Decodes one more byte string of a [`TextStream::bytes`] stream and returns the text that is final.
    pub(crate) fn push_bytes(&mut self, bytes: &[u8]) -> Result<String, Error> {
        let text = self.joint.bytes(bytes);
        self.settle(text)
    }

    /// The text still held back, if no token follows.
    pub(crate) fn finish(mut self) -> Result<String, Error> {
        let mut text = String::new();
        for at in 0..self.tokens.len() {
            let rest = self.tokens[at].finish()?;
            text.push_str(&self.carry(at + 1, rest)?);
        }
        let mut rest = self.joint.finish();
        for link in &mut self.texts {
            rest = link.push(rest)?;
            rest.push_str(&link.finish()?);
        }
        text.push_str(&rest);
        Ok(text)
    }

    /// Passes tokens through the links from `at` on.
    fn carry(&mut self, at: usize, mut tokens: Vec<String>) -> Result<String, Error> {
        for link in &mut self.tokens[at..] {
            let mut next = Vec::with_capacity(tokens.len());
            for token in tokens {
                next.extend(link.push(token)?);
            }
            tokens = next;
        }
        let mut text = String::new();
        tokens.into_iter().for_each(|token| text.push_str(&self.joint.push(token)));
        self.settle(text)
    }

    fn settle(&mut self, mut text: String) -> Result<String, Error> {
        for link in &mut self.texts {
            text = link.push(text)?;
        }
        Ok(text)
    }
}

impl TokenLink {
    fn push(&mut self, token: String) -> Result<Vec<String>, Error> {
        match self {
            TokenLink::Each(decoder) => decoded(decoder, vec![token]),
            TokenLink::Placed { decoder, first } => {
                if std::mem::replace(first, false) {
                    return decoded(decoder, vec![token]);
                }
                let mut both = decoded(decoder, vec![String::new(), token])?;
                Ok(both.split_off(1.min(both.len())))
            }
            TokenLink::Strip { content, start, stop } => Ok(vec![stripped(&token, *content, *start, *stop).to_owned()]),
            TokenLink::Distinct { decoder, last } => {
                if last.as_ref() == Some(&token) {
                    return Ok(Vec::new());
                }
                *last = Some(token.clone());
                decoded(decoder, vec![token])
            }
            TokenLink::Suffixed { suffix, held } => {
                let before = held.replace(token);
                Ok(before.map(|token| token.replace(&**suffix, " ")).into_iter().collect())
            }
            TokenLink::Bytes { decoder, run, middle } => {
                let byte = byte_token(&token);
                if std::mem::take(middle) && byte.is_some_and(continues) {
                    *middle = true;
                    return Ok(Vec::new());
                }
                run.push(token);
                if byte.is_some() { Ok(Vec::new()) } else { decoded(decoder, std::mem::take(run)) }
            }
        }
    }

    fn finish(&mut self) -> Result<Vec<String>, Error> {
        match self {
            TokenLink::Suffixed { suffix, held } => {
                Ok(held.take().map(|token| token.replace(&**suffix, "")).into_iter().collect())
            }
            TokenLink::Bytes { decoder, run, .. } => decoded(decoder, std::mem::take(run)),
            _ => Ok(Vec::new()),
        }
    }
}

impl Joint {
    fn push(&mut self, token: String) -> String {
        match self {
            Joint::Nothing => token,
            Joint::Space { first } => {
                if std::mem::replace(first, false) {
                    token
                } else {
                    format!(" {token}")
                }
            }
            Joint::Bytes { .. } => {
                let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
                self.bytes(&bytes.unwrap_or(token.into_bytes()))
            }
        }
    }

    /// Appends bytes and returns the characters that are complete.
    fn bytes(&mut self, bytes: &[u8]) -> String {
        let Joint::Bytes { pending, middle } = self else { return String::new() };
        let skipped = if *middle { bytes.iter().take_while(|b| continues(**b)).count() } else { 0 };
        *middle &= skipped == bytes.len();
        pending.extend_from_slice(&bytes[skipped..]);
        let mut text = String::new();
        let mut done = 0;
        for chunk in pending.utf8_chunks() {
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            // The last bytes may be the beginning of a character.
            let open = done + invalid.len() == pending.len()
                && std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
            if invalid.is_empty() || open {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            done += invalid.len();
        }
        pending.drain(..done);
        text
    }

    fn finish(&mut self) -> String {
        match self {
            Joint::Bytes { pending, .. } => String::from_utf8_lossy(&std::mem::take(pending)).into_owned(),
            _ => String::new(),
        }
    }
}

impl TextLink {
    fn push(&mut self, text: String) -> Result<String, Error> {
        Ok(match self {
            TextLink::Each(decoder) => decoded(decoder, vec![text])?.concat(),
            TextLink::Strip { content, start, stop, held } => {
                let mut rest = &text[..];
                while *start > 0 && !rest.is_empty() {
                    match rest.strip_prefix(*content) {
                        Some(stripped) => (rest, *start) = (stripped, *start - 1),
                        None => *start = 0,
                    }
                }
                let kept = rest.trim_end_matches(*content);
                let ending = (rest.len() - kept.len()) / content.len_utf8() + if kept.is_empty() { *held } else { 0 };
                let before = if kept.is_empty() { 0 } else { *held };
                *held = ending.min(*stop);
                let mut given: String = std::iter::repeat_n(*content, before).collect();
                given.push_str(kept);
                given.extend(std::iter::repeat_n(*content, ending - *held));
                given
            }
            TextLink::Replace { pattern, content, held } => {
                let text = std::mem::take(held) + &text;
                let mut rest = &text[..];
                let mut given = String::new();
                while let Some((before, behind)) = rest.split_once(&**pattern) {
                    given.push_str(before);
                    given.push_str(content);
                    rest = behind;
                }
                // The end of the text may be the beginning of the next match.
                let (settled, open) = rest.split_at(rest.len() - opened(rest, pattern));
                given.push_str(settled);
                *held = open.to_owned();
                given
            }
            TextLink::Whole { held, .. } => {
                held.push_str(&text);
                String::new()
            }
        })
    }

    fn finish(&mut self) -> Result<String, Error> {
        match self {
            TextLink::Replace { held, .. } => Ok(std::mem::take(held)),
            TextLink::Whole { decoder, held } if !held.is_empty() => {
                Ok(decoded(decoder, vec![std::mem::take(held)])?.concat())
            }
            _ => Ok(String::new()),
        }
    }
}

fn decoded(decoder: &DecoderWrapper, tokens: Vec<String>) -> Result<Vec<String>, Error> {
    let wrong =
        |e: tokenizers::Error| Error::Tokenizer { file: "the tokenizer's decoder".into(), message: e.to_string() };
    if tokens.is_empty() { Ok(tokens) } else { decoder.decode_chain(tokens).map_err(wrong) }
}

/// A token without up to `start` leading and `stop` trailing characters `content`.
fn stripped(token: &str, content: char, start: usize, stop: usize) -> &str {
    let mut rest = token;
    for _ in 0..start {
        let Some(less) = rest.strip_prefix(content) else { break };
        rest = less;
    }
    for _ in 0..stop {
        let Some(less) = rest.strip_suffix(content) else { break };
        rest = less;
    }
    rest
}

/// Pattern and replacement of a `Replace`; `None` if the pattern is a regular expression.
fn replaced(decoder: &DecoderWrapper) -> Option<(String, String)> {
    let DecoderWrapper::Replace(replace) = decoder else { return None };
    let written: Value = serde_json::to_value(replace).ok()?;
    let pattern = written["pattern"]["String"].as_str().filter(|pattern| !pattern.is_empty())?;
    Some((pattern.to_owned(), replace.content.clone()))
}

/// Length of the longest suffix of `text` that is a proper prefix of `pattern`, in bytes.
pub(crate) fn opened(text: &str, pattern: &str) -> usize {
    let longest = pattern.len().saturating_sub(1).min(text.len());
    (1..=longest).rev().find(|n| text.as_bytes().ends_with(&pattern.as_bytes()[..*n])).unwrap_or(0)
}

/// The byte of a byte-fallback token such as `<0x0A>`.
fn byte_token(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None }
}

/// Whether a byte is a UTF-8 continuation byte.
fn continues(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// The byte of a character in a byte-level vocabulary: printable bytes map to themselves, the others to code points from 256 on (GPT-2).
fn byte_of(c: char) -> Option<u8> {
    let own = |b: u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    match u32::from(c) {
        c if c < 256 => own(c).then_some(c as u8),
        c => (0..=255u8).filter(|b| !own(u32::from(*b))).nth(c as usize - 256),
    }
}
