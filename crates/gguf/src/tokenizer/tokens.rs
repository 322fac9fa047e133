//! The list of tokens, with their types.

use std::borrow::Cow;
use std::collections::HashMap;

use super::keys::Keys;
use crate::{Error, Strings};

/// What a token is, by the number that `tokenizer.ggml.token_type` has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenType {
    /// A piece of text.
    Normal,
    /// What stands for text without a token.
    Unknown,
    /// A token with a function, such as the end of a text; it is not shown.
    Control,
    /// A text that is always one token.
    UserDefined,
    /// A row of the embedding table without use.
    Unused,
    /// A byte, `<0x00>` to `<0xFF>`, of characters that have no token.
    Byte,
}

impl TokenType {
    fn of(number: i64) -> Option<Self> {
        Some(match number {
            1 => TokenType::Normal,
            2 => TokenType::Unknown,
            3 => TokenType::Control,
            4 => TokenType::UserDefined,
            5 => TokenType::Unused,
            6 => TokenType::Byte,
            _ => return None,
        })
    }

    /// The number that the entry has for it.
    pub(super) fn number(self) -> i32 {
        match self {
            TokenType::Normal => 1,
            TokenType::Unknown => 2,
            TokenType::Control => 3,
            TokenType::UserDefined => 4,
            TokenType::Unused => 5,
            TokenType::Byte => 6,
        }
    }

    /// Whether the token is found in a text before the text is normalised and split.
    pub(super) fn is_added(self) -> bool {
        matches!(self, TokenType::Unknown | TokenType::Control | TokenType::UserDefined)
    }

    /// Whether decoding hides the token.
    pub(super) fn is_special(self) -> bool {
        matches!(self, TokenType::Unknown | TokenType::Control)
    }
}

/// A token.
pub(super) struct Token<'a> {
    pub(super) text: Cow<'a, str>,
    pub(super) of: TokenType,
}

/// All tokens, by id.
pub(super) struct Tokens<'a> {
    pub(super) list: Vec<Token<'a>>,
}

impl<'a> Tokens<'a> {
    /// Errors if there are none, if one is not UTF-8 or occurs twice, or if the types are not as many.
    pub(super) fn read(keys: &Keys<'a>) -> Result<Self, Error> {
        let texts: Strings<'a> = keys.require("tokens")?;
        let types = types(keys, texts.len())?;
        let mut list = Vec::with_capacity(types.len());
        for ((id, text), of) in texts.enumerate().zip(types) {
            let text = std::str::from_utf8(text)
                .map_err(|e| keys.error("tokens", format!("token {id} ({}): want UTF-8: {e}", text.escape_ascii())))?;
            // Several rows without a text may exist: llama.cpp has this name for them too.
            let text = if text.is_empty() { format!("[EMPTY_{id}]").into() } else { text.into() };
            list.push(Token { text, of });
        }
        let tokens = Self { list };
        tokens.ids(keys)?;
        Ok(tokens)
    }

    /// The ids by text. Errors if two tokens have the same.
    pub(super) fn ids(&self, keys: &Keys<'_>) -> Result<HashMap<&str, usize>, Error> {
        distinct(keys, self.list.iter().map(|token| &*token.text))
    }

    /// The score of each token. Errors if they are not as many as there are tokens, or not finite.
    pub(super) fn scores(&self, keys: &Keys<'_>) -> Result<Vec<f32>, Error> {
        let scores: Vec<f32> = keys.require("scores")?;
        same_number(keys, "scores", scores.len(), self.list.len())?;
        match scores.iter().position(|score| !score.is_finite()) {
            Some(id) => Err(keys.error("scores", format!("want finite scores, found {} for token {id}", scores[id]))),
            None => Ok(scores),
        }
    }
}

/// The ids by text. Errors if two are equal.
pub(super) fn distinct<'t>(
    keys: &Keys<'_>,
    texts: impl ExactSizeIterator<Item = &'t str>,
) -> Result<HashMap<&'t str, usize>, Error> {
    let mut ids = HashMap::with_capacity(texts.len());
    for (id, text) in texts.enumerate() {
        if let Some(first) = ids.insert(text, id) {
            return Err(keys.error("tokens", format!("tokens {first} and {id} are both `{}`", text.escape_debug())));
        }
    }
    Ok(ids)
}

/// The types of tokens: normal if the file does not have any. Errors if they are not as many as there are tokens.
pub(super) fn types(keys: &Keys<'_>, tokens: usize) -> Result<Vec<TokenType>, Error> {
    if tokens == 0 {
        return Err(keys.error("tokens", "want at least one token, found none"));
    }
    if u32::try_from(tokens).is_err() {
        return Err(keys.error("tokens", format!("want at most {} tokens, found {tokens}", u32::MAX)));
    }
    let Some(numbers) = keys.get::<Vec<i64>>("token_type")? else { return Ok(vec![TokenType::Normal; tokens]) };
    same_number(keys, "token_type", numbers.len(), tokens)?;
    let mut types = Vec::with_capacity(tokens);
    for (id, number) in numbers.into_iter().enumerate() {
        let unknown = || keys.error("token_type", format!("want 1 to 6, found {number} for token {id}"));
        types.push(TokenType::of(number).ok_or_else(unknown)?);
    }
    Ok(types)
}

fn same_number(keys: &Keys<'_>, name: &str, found: usize, tokens: usize) -> Result<(), Error> {
    if found == tokens {
        return Ok(());
    }
    Err(keys.error(name, format!("has {found} elements, but there are {tokens} tokens")))
}
