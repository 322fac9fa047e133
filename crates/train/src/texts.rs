//! From texts to tokens, as an objective needs them.

use longreach_engine::{ChatTemplate, Message, Tokenizer};
use tokenizers::{EncodeInput, Encoding, TruncationParams, TruncationStrategy};

use crate::Error;

/// A tokenizer that cuts texts to a length.
pub(crate) struct Texts {
    tokenizer: Tokenizer,
    /// The tokenizer of texts that are cut at the end; `None` for RWKV's.
    cut: Option<tokenizers::Tokenizer>,
    /// The largest number of tokens of a text.
    pub(crate) length: usize,
    /// The tokens that end a text.
    ends: Vec<u32>,
    /// The mask token.
    pub(crate) mask: Option<u32>,
    template: Option<ChatTemplate>,
}

/// A tokenized text with its special tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Text {
    pub(crate) ids: Vec<u32>,
    /// The token types, one per token; empty if all are 0.
    pub(crate) types: Vec<u32>,
    /// Which tokens are special; empty if none is.
    pub(crate) special: Vec<bool>,
}

impl From<&Encoding> for Text {
    fn from(encoding: &Encoding) -> Self {
        let (ids, types) = (encoding.get_ids().to_vec(), encoding.get_type_ids().to_vec());
        Self { ids, types, special: encoding.get_special_tokens_mask().iter().map(|mask| *mask == 1).collect() }
    }
}

fn cutting(length: usize, strategy: TruncationStrategy, stride: usize) -> TruncationParams {
    TruncationParams { max_length: length, strategy, stride, ..TruncationParams::default() }
}

impl Texts {
    /// A tokenizer whose texts have at most `length` tokens. `ends` are the tokens that end a text, and `mask` is the text of the mask token.
    pub(crate) fn new(
        tokenizer: Tokenizer,
        length: usize,
        ends: Vec<u32>,
        mask: Option<&str>,
        template: Option<ChatTemplate>,
    ) -> Result<Self, Error> {
        let mut cut = tokenizer.hugging_face().cloned();
        if let Some(cut) = &mut cut {
            let params = cutting(length, TruncationStrategy::LongestFirst, 0);
            cut.with_truncation(Some(params)).map_err(|e| Error::Tokenizer(e.to_string()))?;
        }
        let id = |text: &str| cut.as_ref().and_then(|cut| cut.token_to_id(text));
        let mask = mask.and_then(id).or_else(|| id("[MASK]")).or_else(|| id("<mask>"));
        Ok(Self { tokenizer, cut, length, ends, mask, template })
    }

    /// The tokenizer.
    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The token that is placed behind a text.
    pub(crate) fn end(&self) -> Option<u32> {
        self.ends.first().copied()
    }

    fn cut(&self) -> Result<&tokenizers::Tokenizer, String> {
        self.cut
            .as_ref()
            .ok_or_else(|| "RWKV's vocabulary has no special tokens, which this objective needs".to_owned())
    }

    /// A text or a pair of texts with the special tokens around them, cut to the length.
    pub(crate) fn around(&self, text: &str, pair: Option<&str>) -> Result<Text, String> {
        let input: EncodeInput<'_> = match pair {
            Some(pair) => (text, pair).into(),
            None => text.into(),
        };
        let encoding = self.cut()?.encode_fast(input, true).map_err(|e| e.to_string())?;
        Ok(Text::from(&encoding))
    }

    /// Words with the special tokens around them, and the word of each token.
    pub(crate) fn words(&self, words: &[String]) -> Result<(Text, Vec<Option<u32>>), String> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let encoding = self.cut()?.encode(&words[..], true).map_err(|e| e.to_string())?;
        Ok((Text::from(&encoding), encoding.get_word_ids().to_vec()))
    }

    /// The windows of a context after a question, which overlap by `stride` tokens.
    pub(crate) fn windows(&self, question: &str, context: &str, stride: usize) -> Result<Vec<Encoding>, String> {
        let mut cut = self.cut()?.clone();
        let params = cutting(self.length, TruncationStrategy::OnlySecond, stride.min(self.length / 2));
        cut.with_truncation(Some(params)).map_err(|e| e.to_string())?;
        let mut first = cut.encode((question, context), true).map_err(|e| format!("the question does not fit: {e}"))?;
        let more = first.take_overflowing();
        Ok(std::iter::once(first).chain(more).collect())
    }

    /// A text without special tokens.
    pub(crate) fn plain(&self, text: &str) -> Result<Vec<u32>, String> {
        self.tokenizer.encode(text).map_err(|e| e.to_string())
    }

    /// The special tokens before every text.
    pub(crate) fn prefix(&self) -> Result<Vec<u32>, String> {
        self.tokenizer.prefix().map_err(|e| e.to_string())
    }

    /// A conversation as alternating parts of the template's text: whether the assistant wrote it, and the text.
    pub(crate) fn conversation(&self, messages: &[Message]) -> Result<Vec<(bool, String)>, String> {
        let template = self.template.as_ref().ok_or("the model has no chat template")?;
        let none = serde_json::Map::new();
        let render = |n: usize, prompt: bool| template.render(&messages[..n], prompt, &none).map_err(|e| e.to_string());
        let mut parts = Vec::new();
        let mut done = String::new();
        for (i, message) in messages.iter().enumerate() {
            if message.role != "assistant" {
                continue;
            }
            let (before, after) = (render(i, true)?, render(i + 1, false)?);
            let apart = "the chat template writes earlier messages anew, so that the answers cannot be told apart";
            let asked = before.strip_prefix(&done[..]).ok_or(apart)?;
            let answer = after.strip_prefix(&before[..]).ok_or(apart)?;
            parts.push((false, asked.to_owned()));
            parts.push((true, answer.to_owned()));
            done = after.clone();
        }
        if parts.is_empty() { Err("the messages have none of the role `assistant`".into()) } else { Ok(parts) }
    }
}
