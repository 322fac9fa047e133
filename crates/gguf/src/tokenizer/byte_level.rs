//! Byte-level byte-pair encoding, `gpt2`: the tokens are in GPT-2's letters for bytes, and the file has the merges.

use std::collections::HashSet;

use serde_json::Value;

use super::json::{Bpe, Parts, Strips, document, template};
use super::keys::Keys;
use super::patterns::{self, byte_level};
use super::special::{Around, Special};
use super::tokens::Tokens;
use crate::{Error, Strings};

/// Converts the tokenizer. Errors if the pattern is not known, or a merge is not one of known tokens.
pub(super) fn convert(keys: &Keys<'_>, tokens: &Tokens<'_>, special: &Special) -> Result<(String, Around), Error> {
    let name: &str = keys.require("pre")?;
    let pattern = patterns::pattern(name).ok_or_else(|| keys.unknown("pre", name, patterns::KNOWN))?;
    let default = Around { bos: pattern.add_bos, ..Around::default() };
    let around = Around::read(keys, default)?;
    let absorbs = matches!(name, "roberta-bpe" | "jina-v2-code" | "jina-v2-de" | "jina-v2-es" | "modern-bert");
    let strips = Strips { before: special.mask.filter(|_| absorbs), behind: false };
    let parts = Parts {
        normalizer: Value::Null,
        pre_tokenizer: pattern.pre_tokenizer(),
        post_processor: template(keys, tokens, special, around)?,
        decoder: byte_level(true),
        model: Bpe::new(tokens, merges(keys, tokens)?).ignoring_merges(pattern.ignore_merges),
    };
    Ok((document(parts, tokens, &strips), around))
}

/// The merges as pairs. Of merges that occur twice, the first counts.
pub(super) fn merges<'a>(keys: &Keys<'a>, tokens: &Tokens<'_>) -> Result<Vec<[&'a str; 2]>, Error> {
    let ids = tokens.ids(keys)?;
    let list: Strings<'a> = keys.require("merges")?;
    let (mut seen, mut merges) = (HashSet::with_capacity(list.len()), Vec::with_capacity(list.len()));
    let mut joined = String::new();
    for (rank, merge) in list.enumerate() {
        let wrong = |what: &str| {
            keys.error("merges", format!("merge {rank} (`{}`) {what}", String::from_utf8_lossy(merge).escape_debug()))
        };
        let text = std::str::from_utf8(merge).map_err(|_| wrong("is not UTF-8"))?;
        let (left, right) = pair(text).ok_or_else(|| wrong("is not two tokens with a space between them"))?;
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        if let Some(unknown) = [left, right, &joined].into_iter().find(|token| !ids.contains_key(token)) {
            return Err(wrong(&format!("needs the token `{}`, which is missing", unknown.escape_debug())));
        }
        if seen.insert((left, right)) {
            merges.push([left, right]);
        }
    }
    Ok(merges)
}

/// The two tokens of a merge. The first may begin with a space, so the space between them is not the first character.
fn pair(merge: &str) -> Option<(&str, &str)> {
    let first = merge.chars().next()?.len_utf8();
    let space = first + merge.get(first..)?.find(' ')?;
    let (left, right) = (merge.get(..space)?, merge.get(space + 1..)?);
    (!right.is_empty()).then_some((left, right))
}
