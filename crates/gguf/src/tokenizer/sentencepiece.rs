//! SentencePiece's byte-pair encoding, `llama`: tokens with scores; and `gemma4`, which lists its merges.
//!
//! SentencePiece joins the two neighbours that make the token of the best score, the leftmost first, until no
//! neighbours make a token. `tokenizer.json` has ordered merges instead. They are all ways to split a token into two,
//! the best token first. Among equal scores, which runs of spaces have, the longest left part comes first: a run then
//! grows from the left to the longest token, as it does in SentencePiece.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::byte_level;
use super::json::{Bpe, Parts, Strips, document, sentencepiece_decoder, sentencepiece_spaces, sequence_of, template};
use super::keys::Keys;
use super::special::{Around, Special};
use super::tokens::{TokenType, Tokens};
use crate::Error;

/// The longest token that is split, in bytes. Longer ones than a few dozen are not found in any model.
const LONGEST: usize = 1024;

/// How many times the bytes of the tokens the merges may take. In models it is about three.
const GROWTH: usize = 64;

/// Converts the tokenizer. Errors if scores are missing or not finite.
pub(super) fn convert(keys: &Keys<'_>, tokens: &Tokens<'_>, special: &Special) -> Result<(String, Around), Error> {
    let scores = tokens.scores(keys)?;
    // Gemma's order of merges is that of the tokens, whatever their scores.
    let order = if keys.architecture()?.starts_with("gemma") { None } else { Some(&scores[..]) };
    assembled(keys, tokens, special, merges(keys, tokens, order)?)
}

/// Converts the tokenizer of Gemma 4, whose merges are listed. Errors if they are missing, or name unknown tokens.
pub(super) fn convert_listed(
    keys: &Keys<'_>,
    tokens: &Tokens<'_>,
    special: &Special,
) -> Result<(String, Around), Error> {
    assembled(keys, tokens, special, byte_level::merges(keys, tokens)?)
}

/// The tokenizer with these merges.
fn assembled(
    keys: &Keys<'_>,
    tokens: &Tokens<'_>,
    special: &Special,
    merges: Vec<[&str; 2]>,
) -> Result<(String, Around), Error> {
    let around = Around::read(keys, Around { bos: true, ..Around::default() })?;
    let space_prefix = keys.get("add_space_prefix")?.unwrap_or(true);
    let unknown = special.unknown.and_then(|id| tokens.list.get(usize::try_from(id).ok()?)).map(|token| &token.text);
    let bytes = tokens.list.iter().any(|token| token.of == TokenType::Byte);
    let parts = Parts {
        normalizer: sequence_of("normalizers", sentencepiece_spaces(space_prefix)),
        pre_tokenizer: Value::Null,
        post_processor: template(keys, tokens, special, around)?,
        decoder: sentencepiece_decoder(space_prefix),
        model: Bpe::new(tokens, merges).of_pieces(unknown.map(|text| &**text), bytes),
    };
    // The special tokens of Phi-3 absorb the spaces behind them.
    let strips = Strips { before: None, behind: keys.architecture()? == "phi3" };
    Ok((document(parts, tokens, &strips), around))
}

/// A token as the sum of two.
struct Merge<'t> {
    id: usize,
    left: &'t str,
    right: &'t str,
    /// The number of characters of the left token.
    characters: usize,
}

/// The merges, best first; `scores` is `None` if that is the order of the tokens.
fn merges<'t>(keys: &Keys<'_>, tokens: &'t Tokens<'_>, scores: Option<&[f32]>) -> Result<Vec<[&'t str; 2]>, Error> {
    let pieces: Vec<(usize, &str)> = tokens
        .list
        .iter()
        .enumerate()
        .filter(|(_, token)| is_piece(token.of))
        .map(|(id, token)| (id, &*token.text))
        .collect();
    if let Some((id, text)) = pieces.iter().find(|(_, text)| text.len() > LONGEST) {
        let message = format!("token {id} has {} bytes, but at most {LONGEST} are supported", text.len());
        return Err(keys.error("tokens", message));
    }
    let ids: HashMap<&str, usize> = pieces.iter().map(|(id, text)| (*text, *id)).collect();
    // Most parts of most tokens have a length that tokens have, but this bounds the work for unusual ones.
    let lengths: HashSet<usize> = pieces.iter().map(|(_, text)| text.len()).collect();
    let bytes: usize = pieces.iter().map(|(_, text)| text.len()).sum();
    let most = bytes.saturating_mul(GROWTH);
    let (mut merges, mut total) = (Vec::new(), 0usize);
    for (id, text) in &pieces {
        for (characters, (at, _)) in text.char_indices().enumerate().skip(1) {
            let (left, right) = text.split_at(at);
            let known = |part: &str| lengths.contains(&part.len()) && ids.contains_key(part);
            if known(left) && known(right) {
                total = total.saturating_add(text.len());
                merges.push(Merge { id: *id, left, right, characters });
            }
        }
        if total > most {
            let message = format!("the merges of the tokens take more than {GROWTH} times the {bytes} bytes of these");
            return Err(keys.error("tokens", message));
        }
    }
    sort(&mut merges, scores);
    Ok(merges.into_iter().map(|merge| [merge.left, merge.right]).collect())
}

fn sort(merges: &mut [Merge<'_>], scores: Option<&[f32]>) {
    match scores {
        None => merges.sort_by_key(|merge| (merge.id, Reverse(merge.characters))),
        Some(scores) => merges.sort_by(|a, b| {
            let score = scores[b.id].total_cmp(&scores[a.id]);
            let left = b.characters.cmp(&a.characters);
            let right = || b.right.chars().count().cmp(&a.right.chars().count());
            score.then(left).then_with(right).then(a.id.cmp(&b.id))
        }),
    }
}

/// Whether SentencePiece makes the token by joining others. The rest is found in the text before that, or stands for
/// bytes.
fn is_piece(of: TokenType) -> bool {
    matches!(of, TokenType::Normal | TokenType::Unused)
}
