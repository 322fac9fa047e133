//! Incremental decoding: fragments whose concatenation equals decoding all tokens at once.

use crate::stream::TextStream;
use crate::{Error, Tokenizer};

/// Number of preceding tokens that a writer decodes for context: more than a single character or a run of spaces consists of.
pub(crate) const RECENT: usize = 64;

/// The last tokens of a text that have text; the text generated next continues theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recent {
    /// At most [`RECENT`].
    pub(crate) ids: Vec<u32>,
    /// Whether earlier tokens were dropped.
    pub(crate) cut: bool,
}

impl Recent {
    /// Appends tokens and keeps the last [`RECENT`].
    pub(crate) fn add(&mut self, tokenizer: &Tokenizer, ids: &[u32]) {
        let shown = ids.iter().rev().filter(|id| tokenizer.shows(**id));
        let last: Vec<u32> = shown.take(RECENT + 1).copied().collect();
        self.ids.extend(last.into_iter().rev());
        let over = self.ids.len().saturating_sub(RECENT);
        self.cut |= over > 0;
        self.ids.drain(..over);
    }
}

/// Decodes tokens one at a time.
///
/// If `p` are the tokens read before and `w` the tokens written, the fragments and the rest concatenate to `decode(p + w)` without the prefix `decode(p)`: the
/// first word keeps the space before it, special tokens leave no trace, and a character of several tokens is emitted whole. Only text that a later token could
/// still change is held back; a character that is never completed becomes U+FFFD.
#[derive(Clone)]
pub struct Writer {
    tokenizer: Tokenizer,
    stream: TextStream,
    /// Text of the tokens read before that the stream still holds; it is not emitted.
    read: String,
}

impl Writer {
    /// A writer for the tokens that follow these.
    pub(crate) fn new(tokenizer: &Tokenizer, recent: &Recent) -> Result<Self, Error> {
        let mut stream = tokenizer.stream();
        if recent.cut {
            stream.continue_unseen();
        }
        for id in &recent.ids {
            tokenizer.push(&mut stream, *id)?;
        }
        let read = stream.clone().finish()?;
        Ok(Self { tokenizer: tokenizer.clone(), stream, read })
    }

    /// Decodes one more token and returns the text that no later token can change; it may be empty.
    pub fn text(&mut self, id: u32) -> Result<String, Error> {
        let text = self.tokenizer.push(&mut self.stream, id)?;
        Ok(self.unread(text))
    }

    /// The text still held back, if no token follows.
    pub fn rest(&self) -> Result<String, Error> {
        let text = self.stream.clone().finish()?;
        Ok(self.clone().unread(text))
    }

    /// Removes from `text` what belongs to tokens read before.
    fn unread(&mut self, text: String) -> String {
        let same = self.read.chars().zip(text.chars()).take_while(|(a, b)| a == b);
        let same: usize = same.map(|(c, _)| c.len_utf8()).sum();
        if same < text.len() {
            // The text differs from here on, so nothing of the tokens before remains.
            self.read.clear();
        } else {
            self.read.drain(..same);
        }
        text[same..].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_text_that_is_not_known_nothing_is_a_beginning() {
        let metaspace = r#"{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}"#;
        let llama = r#"{"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}"#;
        for (decoder, ids, want) in [
            (metaspace, &[0][..], " a"),
            ("null", &[0], " ▁a"),
            (r#"{"type": "WordPiece", "prefix": "▁", "cleanup": true}"#, &[0], "a"),
            (llama, &[0], " a"),
            // Bytes that continue an unseen character are dropped.
            (llama, &[1, 0], " a"),
        ] {
            let json = format!(
                r#"{{"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
                "decoder": {decoder}, "model": {{"type": "WordLevel", "vocab": {{"▁a": 0, "<0xA2>": 1}}, "unk_token": "▁a"}}}}"#
            );
            let tokenizer = Tokenizer::parse("a tokenizer", &json).expect("a tokenizer");
            let mut writer = Writer::new(&tokenizer, &Recent { ids: Vec::new(), cut: true }).expect("a writer");
            let mut text: String = ids.iter().map(|id| writer.text(*id).expect("a text")).collect();
            text.push_str(&writer.rest().expect("a text"));
            assert_eq!(text, want, "{decoder}");
        }
    }
}
