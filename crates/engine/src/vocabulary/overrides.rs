//! `tokenizer.json` with the overrides of `tokenizer_config.json`: some classes of transformers replace the normalizer or the prefix and use only the
//! vocabulary of the file.

use serde_json::{Value, json};

use super::class::Class;
use super::legacy::bert_normalizer;
use super::{Draft, Files, wrong};
use crate::Error;

/// Reads `tokenizer.json` and applies the overrides.
pub(super) fn draft(files: &Files<'_>) -> Result<Draft, Error> {
    let (file, text) = files.text("tokenizer.json")?;
    if !matches!(files.class, Class::Bert | Class::Roberta | Class::Gpt2 | Class::GptNeoX | Class::Llama) {
        return Ok(Draft { file, text, special: Vec::new(), around: None });
    }
    let mut all: Value = serde_json::from_str(&text).map_err(|e| wrong(&file, format!("not a tokenizer: {e}")))?;
    let before = all.clone();
    let is = |value: &Value, kind: &str| value["type"].as_str() == Some(kind);
    match files.class {
        Class::Bert if is(&all["model"], "WordPiece") => all["normalizer"] = bert_normalizer(files),
        Class::Roberta | Class::Gpt2 | Class::GptNeoX if is(&all["pre_tokenizer"], "ByteLevel") => {
            all["pre_tokenizer"]["add_prefix_space"] = json!(files.flag("add_prefix_space", false));
        }
        Class::Llama if is(&all["model"], "BPE") && !byte_level(&all) => llama(files, &mut all),
        _ => {}
    }
    // Without an override the text is kept, and with it the hash.
    let text = if all == before { text } else { all.to_string() };
    Ok(Draft { file, text, special: Vec::new(), around: None })
}

/// Whether a tokenizer is byte-level.
fn byte_level(all: &Value) -> bool {
    let of = |part: &Value, list: &str| {
        let one = |part: &Value| part["type"].as_str() == Some("ByteLevel");
        one(part) || part[list].as_array().is_some_and(|parts| parts.iter().any(one))
    };
    of(&all["pre_tokenizer"], "pretokenizers") || of(&all["decoder"], "decoders")
}

/// Applies the pre-tokenizer, decoder and model options of Llama's class.
fn llama(files: &Files<'_>, all: &mut Value) {
    let (pre_tokenizer, decoder) = llama_parts(files);
    all["normalizer"] = Value::Null;
    all["pre_tokenizer"] = pre_tokenizer;
    all["decoder"] = decoder;
    all["model"]["byte_fallback"] = json!(true);
    all["model"]["fuse_unk"] = json!(true);
    all["model"]["unk_token"] = Value::Null;
}

/// The pre-tokenizer and decoder of Llama's class.
pub(super) fn llama_parts(files: &Files<'_>) -> (Value, Value) {
    let space = files.flag("add_prefix_space", true);
    // Null or missing means not legacy.
    let legacy = files.settings.get("legacy").is_some_and(|v| v.as_bool() == Some(true));
    let scheme = match (space, legacy) {
        (false, _) => "never",
        (true, true) => "always",
        (true, false) => "first",
    };
    let pre_tokenizer = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if space {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    (pre_tokenizer, json!({"type": "Sequence", "decoders": decoders}))
}
