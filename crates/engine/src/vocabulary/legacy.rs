//! Vocabularies from before `tokenizer.json`: `vocab.txt` (WordPiece of BERT), and `vocab.json` with `merges.txt` (byte-level BPE of GPT-2 and RoBERTa).

use serde_json::{Map, Value, json};
use tokenizers::AddedToken;

use super::class::Class;
use super::{Draft, Files, Template, wrong};
use crate::Error;

/// BERT's normalizer with the flags of `tokenizer_config.json`.
pub(super) fn bert_normalizer(files: &Files<'_>) -> Value {
    json!({
        "type": "BertNormalizer", "clean_text": true,
        "handle_chinese_chars": files.flag("tokenize_chinese_chars", true),
        "strip_accents": files.settings.get("strip_accents").cloned().unwrap_or(Value::Null),
        "lowercase": files.flag("do_lower_case", true),
    })
}

/// Converts a `vocab.txt`, which has one token per line. An empty line takes up an id but is not a token.
pub(super) fn word_pieces(files: &Files<'_>) -> Result<Draft, Error> {
    let (file, text) = files.text("vocab.txt")?;
    let lines = text.lines().map(str::trim_end).enumerate();
    let vocabulary: Map<String, Value> =
        lines.filter(|(_, token)| !token.is_empty()).map(|(id, token)| (token.to_owned(), json!(id))).collect();
    let names = [
        ("unk_token", "[UNK]"),
        ("cls_token", "[CLS]"),
        ("sep_token", "[SEP]"),
        ("pad_token", "[PAD]"),
        ("mask_token", "[MASK]"),
    ];
    let tokens = names.map(|(name, default)| files.token(name, default));
    let [unknown, cls, sep, ..] = &tokens;
    if let Some(token) = [unknown, cls, sep].into_iter().find(|token| !vocabulary.contains_key(*token)) {
        return Err(wrong(&file, format!("has no `{token}`")));
    }
    let around = Template::pair_of_two(cls, sep);
    let special = tokens.iter().map(|token| AddedToken::from(token.clone(), true)).collect();
    let text = json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": bert_normalizer(files),
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": null,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary,
        },
    });
    Ok(Draft { file, text: text.to_string(), special, around: Some(around) })
}

/// Converts a `vocab.json` and a `merges.txt`.
pub(super) fn byte_pairs(files: &Files<'_>) -> Result<Draft, Error> {
    let (file, text) = files.text("vocab.json")?;
    let vocabulary: Map<String, Value> =
        serde_json::from_str(&text).map_err(|e| wrong(&file, format!("want an object of tokens and ids: {e}")))?;
    let (_, merges) = files.text("merges.txt")?;
    let merges: Vec<&str> = merges.lines().filter(|line| !line.starts_with("#version") && !line.is_empty()).collect();
    let space = files.flag("add_prefix_space", false);
    let (cls, sep) = (files.token("cls_token", "<s>"), files.token("sep_token", "</s>"));
    let plain = matches!(files.class, Class::Gpt2 | Class::GptNeoX);
    let around_roberta = match (vocabulary.get(&cls), vocabulary.get(&sep)) {
        (Some(first), Some(last)) if !plain => json!({
            "type": "RobertaProcessing", "sep": [sep, last], "cls": [cls, first], "trim_offsets": true,
            "add_prefix_space": space,
        }),
        _ => Value::Null,
    };
    let end = "<|endoftext|>";
    let stated = |flag: &str, name: &str| files.flag(flag, false).then(|| files.token(name, end));
    let around =
        plain.then(|| Template::ends(stated("add_bos_token", "bos_token"), stated("add_eos_token", "eos_token")));
    let mut special = vec![AddedToken::from(end, true)];
    if !plain {
        let tokens = [cls, sep, files.token("pad_token", "<pad>"), files.token("unk_token", "<unk>")];
        special.extend(tokens.map(|token| AddedToken::from(token, true)));
        // The mask token absorbs the space before it, as in the `tokenizer.json` of these models.
        special.push(AddedToken::from(files.token("mask_token", "<mask>"), true).lstrip(true));
    }
    let normalizer = if files.class == Class::GptNeoX { json!({"type": "NFC"}) } else { Value::Null };
    let text = json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": true},
        "post_processor": around_roberta,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": merges,
        },
    });
    Ok(Draft { file, text: text.to_string(), special, around })
}
