//! The tokenizer of a model's directory: `tokenizer.json`, or what came before it, put into its form.
//!
//! `vocab.txt` is BERT's WordPiece; `vocab.json` with `merges.txt` is byte-level BPE, as GPT-2 and RoBERTa have it; whole words are in [`crate::words`].

use std::path::Path;
use std::str::FromStr;

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use crate::{Error, words};

/// Words whose tokens a tokenizer remembers.
const WORDS: usize = 200;

/// The tokenizer of a directory and the hash of its file, if there is one. With `lower`, texts are lowercased first.
pub(crate) fn find(directory: &Path, lower: bool) -> Result<Option<(Tokenizer, blake3::Hash)>, Error> {
    let file = directory.join("tokenizer.json");
    let text = if file.exists() {
        Some(std::fs::read_to_string(&file).map_err(|source| Error::Io { path: file.clone(), source })?)
    } else if directory.join("vocab.txt").exists() {
        Some(word_pieces(directory)?)
    } else if directory.join("vocab.json").exists() && directory.join("merges.txt").exists() {
        Some(byte_pairs(directory)?)
    } else {
        words::find(directory)?
    };
    let Some(mut text) = text else { return Ok(None) };
    let name = file.display().to_string();
    if lower {
        text = lowercased(&name, &text)?;
    }
    parse(&name, &text).map(Some)
}

/// A tokenizer from its file's text.
pub(crate) fn parse(file: &str, text: &str) -> Result<(Tokenizer, blake3::Hash), Error> {
    let mut tokenizer = Tokenizer::from_str(text).map_err(|e| wrong(file, format!("not a tokenizer: {e}")))?;
    // The model remembers words it has cut up; left alone that memory grows over the first megabytes of a text.
    let mut model = tokenizer.get_model().clone();
    model.resize_cache(WORDS);
    tokenizer.with_model(model);
    // How long a text may be and how batches are padded is not the file's to say.
    let _ = tokenizer.with_truncation(None);
    tokenizer.with_padding(None);
    Ok((tokenizer, blake3::hash(text.as_bytes())))
}

fn wrong(file: &str, message: String) -> Error {
    Error::Tokenizer { file: file.to_owned(), message }
}

fn lowercased(file: &str, text: &str) -> Result<String, Error> {
    let mut all: Value = serde_json::from_str(text).map_err(|e| wrong(file, format!("not JSON: {e}")))?;
    let first = json!({"type": "Lowercase"});
    let normalizer = match all["normalizer"].take() {
        Value::Null => first,
        own => json!({"type": "Sequence", "normalizers": [first, own]}),
    };
    all["normalizer"] = normalizer;
    Ok(all.to_string())
}

/// `tokenizer_config.json`, or nothing of it.
pub(crate) fn settings(directory: &Path) -> Result<Map<String, Value>, Error> {
    let file = directory.join("tokenizer_config.json");
    if !file.exists() {
        return Ok(Map::new());
    }
    let text = std::fs::read_to_string(&file).map_err(|source| Error::Io { path: file.clone(), source })?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(map)) => Ok(map),
        _ => Err(wrong(&file.display().to_string(), "want a JSON object".into())),
    }
}

/// A special token's text: a string, or an object with its `content`.
pub(crate) fn special(settings: &Map<String, Value>, name: &str, default: &str) -> String {
    let value = settings.get(name);
    let text = value.and_then(|v| v.as_str().or_else(|| v.get("content")?.as_str()));
    text.unwrap_or(default).to_owned()
}

fn added(vocabulary: &Map<String, Value>, tokens: &[(String, bool)]) -> Vec<Value> {
    let mut list: Vec<(u64, Value)> = Vec::new();
    for (token, left) in tokens {
        let Some(id) = vocabulary.get(token).and_then(Value::as_u64) else { continue };
        if list.iter().any(|(known, _)| *known == id) {
            continue;
        }
        let entry = json!({
            "id": id, "content": token, "single_word": false, "lstrip": left, "rstrip": false, "normalized": false,
            "special": true,
        });
        list.push((id, entry));
    }
    list.sort_by_key(|(id, _)| *id);
    list.into_iter().map(|(_, entry)| entry).collect()
}

fn word_pieces(directory: &Path) -> Result<String, Error> {
    let file = directory.join("vocab.txt");
    let name = file.display().to_string();
    let text = std::fs::read_to_string(&file).map_err(|source| Error::Io { path: file, source })?;
    let settings = settings(directory)?;
    let flag = |name: &str, default: bool| settings.get(name).and_then(Value::as_bool).unwrap_or(default);
    let mut vocabulary = Map::new();
    for (id, token) in text.lines().enumerate() {
        vocabulary.insert(token.trim_end_matches('\r').to_owned(), json!(id));
    }
    let token = |name: &str, default: &str| special(&settings, name, default);
    let [unknown, cls, sep] = [("unk_token", "[UNK]"), ("cls_token", "[CLS]"), ("sep_token", "[SEP]")]
        .map(|(name, default)| token(name, default));
    for token in [&unknown, &cls, &sep] {
        if !vocabulary.contains_key(token) {
            return Err(wrong(&name, format!("has no `{token}`")));
        }
    }
    let specials: Vec<(String, bool)> =
        [unknown.clone(), cls.clone(), sep.clone(), token("pad_token", "[PAD]"), token("mask_token", "[MASK]")]
            .map(|token| (token, false))
            .into();
    let piece = |id: &str, kind: u8| json!({"SpecialToken": {"id": id, "type_id": kind}});
    let text = |id: &str, kind: u8| json!({"Sequence": {"id": id, "type_id": kind}});
    let of = |token: &str| json!({"id": token, "ids": [vocabulary[token]], "tokens": [token]});
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": added(&vocabulary, &specials),
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true,
            "handle_chinese_chars": flag("tokenize_chinese_chars", true),
            "strip_accents": settings.get("strip_accents").cloned().unwrap_or(Value::Null),
            "lowercase": flag("do_lower_case", true),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [piece(&cls, 0), text("A", 0), piece(&sep, 0)],
            "pair": [piece(&cls, 0), text("A", 0), piece(&sep, 0), text("B", 1), piece(&sep, 1)],
            "special_tokens": {cls.clone(): of(&cls), sep.clone(): of(&sep)},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary,
        },
    });
    Ok(tokenizer.to_string())
}

fn byte_pairs(directory: &Path) -> Result<String, Error> {
    let read = |name: &str| {
        let file = directory.join(name);
        std::fs::read_to_string(&file).map_err(|source| Error::Io { path: file, source })
    };
    let name = directory.join("vocab.json").display().to_string();
    let vocabulary: Map<String, Value> = serde_json::from_str(&read("vocab.json")?)
        .map_err(|e| wrong(&name, format!("want an object of tokens and numbers: {e}")))?;
    let merges = read("merges.txt")?;
    let merges: Vec<&str> = merges.lines().filter(|line| !line.starts_with("#version") && !line.is_empty()).collect();
    let settings = settings(directory)?;
    let token = |name: &str, default: &str| special(&settings, name, default);
    let space = settings.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(false);
    let (cls, sep) = (token("cls_token", "<s>"), token("sep_token", "</s>"));
    let specials: Vec<(String, bool)> = vec![
        (cls.clone(), false),
        (sep.clone(), false),
        (token("pad_token", "<pad>"), false),
        (token("unk_token", "<unk>"), false),
        (token("mask_token", "<mask>"), true),
        ("<|endoftext|>".into(), false),
    ];
    let processor = match (vocabulary.get(&cls), vocabulary.get(&sep)) {
        (Some(first), Some(last)) => json!({
            "type": "RobertaProcessing", "sep": [sep, last], "cls": [cls, first], "trim_offsets": true,
            "add_prefix_space": space,
        }),
        _ => Value::Null,
    };
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": added(&vocabulary, &specials),
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": true},
        "post_processor": processor,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": merges,
        },
    });
    Ok(tokenizer.to_string())
}
