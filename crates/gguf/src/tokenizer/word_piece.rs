//! WordPiece, `bert`: a token that begins with `▁` begins a word, and any other normal token continues one.

use serde_json::json;

use super::json::{Parts, Strips, document, pair_template, vocabulary};
use super::keys::Keys;
use super::special::{Around, Special};
use super::tokens::{Token, TokenType, Tokens, distinct};
use crate::Error;

/// Converts the tokenizer. Errors if the tokens around a text or the unknown token are missing.
pub(super) fn convert(keys: &Keys<'_>, tokens: &Tokens<'_>, special: &Special) -> Result<(String, Around), Error> {
    let missing = |name: &str| keys.error(&format!("{name}_token_id"), "is missing");
    let first = special.bos.ok_or_else(|| missing("cls"))?;
    let last = special.separator.ok_or_else(|| missing("seperator"))?;
    let unknown = special.unknown.ok_or_else(|| missing("unknown"))?;
    let respelled = tokens.list.iter().map(|token| Token { text: respell(token).into(), of: token.of }).collect();
    let respelled = Tokens { list: respelled };
    let texts = || respelled.list.iter().map(|token| &*token.text);
    distinct(keys, texts())?;
    let unknown = usize::try_from(unknown).ok().and_then(|id| respelled.list.get(id)).map(|token| &token.text);
    let lowercase = keys.get("normalizer.lowercase")?.unwrap_or(true);
    let strip_accents: Option<bool> = keys.get("normalizer.strip_accents")?;
    let parts = Parts {
        normalizer: json!({
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": true,
            "strip_accents": strip_accents,
            "lowercase": lowercase,
        }),
        pre_tokenizer: json!({"type": "BertPreTokenizer"}),
        post_processor: pair_template(&respelled, first, last),
        decoder: json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        model: json!({
            "type": "WordPiece",
            "unk_token": unknown,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary(texts()),
        }),
    };
    let around = Around { bos: true, eos: false, separator: true };
    Ok((document(parts, &respelled, &Strips::default()), around))
}

/// The text of a token in a `vocab.txt`.
fn respell(token: &Token<'_>) -> String {
    let text = &*token.text;
    // Tokens in brackets, such as `[unused0]`, are neither.
    let named = text.len() > 2 && text.starts_with('[') && text.ends_with(']');
    match text.strip_prefix('▁') {
        _ if token.of != TokenType::Normal || named => text.to_owned(),
        Some("") => text.to_owned(),
        Some(word) => word.to_owned(),
        None => format!("##{text}"),
    }
}
