//! SentencePiece's unigram model, `t5`: the tokens of a text are those with the best sum of scores.

use serde_json::{Value, json};

use super::charsmap;
use super::json::{Parts, Strips, document, sentencepiece_decoder, sentencepiece_spaces, sequence_of, template};
use super::keys::Keys;
use super::special::{Around, Special};
use super::tokens::{TokenType, Tokens};
use crate::Error;

/// Converts the tokenizer. Errors if scores are missing or not finite, or the map of characters is not
/// valid.
pub(super) fn convert(keys: &Keys<'_>, tokens: &Tokens<'_>, special: &Special) -> Result<(String, Around), Error> {
    let around = Around::read(keys, Around { eos: true, ..Around::default() })?;
    let space_prefix = keys.get("add_space_prefix")?.unwrap_or(false);
    let scores = tokens.scores(keys)?;
    let mut normalizers = Vec::new();
    if let Some(map) = keys.bytes("precompiled_charsmap")?.filter(|map| !map.is_empty()) {
        charsmap::check(&map).map_err(|message| keys.error("precompiled_charsmap", message))?;
        normalizers.push(json!({"type": "Precompiled", "precompiled_charsmap": base64(&map)}));
    }
    if keys.get("remove_extra_whitespaces")?.unwrap_or(false) {
        normalizers.push(json!({"type": "Strip", "strip_left": true, "strip_right": true}));
        normalizers.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}));
    }
    normalizers.extend(sentencepiece_spaces(space_prefix));
    // The score of unknown characters is relative to the worst score, which is not to be that of a placeholder.
    let normal = tokens.list.iter().zip(&scores).filter(|(token, _)| token.of == TokenType::Normal);
    let worst = normal.map(|(_, score)| *score).reduce(f32::min).unwrap_or(0.0);
    let list = tokens.list.iter().zip(&scores);
    let list: Vec<Value> = list.map(|(token, score)| json!([token.text, score.max(worst)])).collect();
    let parts = Parts {
        normalizer: sequence_of("normalizers", normalizers),
        pre_tokenizer: Value::Null,
        post_processor: template(keys, tokens, special, around)?,
        decoder: sentencepiece_decoder(space_prefix),
        model: json!({
            "type": "Unigram",
            "unk_id": special.unknown,
            "vocab": list,
            "byte_fallback": tokens.list.iter().any(|token| token.of == TokenType::Byte),
        }),
    };
    // The mask token of XLM-RoBERTa absorbs the space before it, as in the `tokenizer.json` of these models.
    let absorbs = matches!(keys.architecture()?, "nomic-bert-moe" | "jina-bert-v3" | "bert");
    let strips = Strips { before: special.mask.filter(|_| absorbs), behind: false };
    Ok((document(parts, tokens, &strips), around))
}

/// Base 64, as `tokenizer.json` has the map.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, i| bits << 8 | three.get(i).copied().map_or(0, u32::from));
        for i in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}
