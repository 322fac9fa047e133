//! The files of a tokenizer.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{Error, write_atomically};

/// Copies the files of a tokenizer, and sets the maximum length in its configuration.
pub(super) fn copy(from: &Path, to: &Path, longest: usize, kind: &str) -> Result<Vec<String>, Error> {
    let mut copied = Vec::new();
    for name in [
        "tokenizer.json",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "sentencepiece.bpe.model",
        "spiece.model",
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
    ] {
        let file = from.join(name);
        if file.exists() {
            std::fs::copy(&file, to.join(name)).map_err(|e| Error::io(&file, e))?;
            copied.push(name.to_owned());
        }
    }
    if copied.is_empty() {
        return Ok(copied);
    }
    let file = from.join("tokenizer_config.json");
    let mut settings: Map<String, Value> = match std::fs::read(&file) {
        Ok(text) => serde_json::from_slice(&text)
            .map_err(|e| Error::Config { file: file.display().to_string(), message: format!("not JSON: {e}") })?,
        Err(_) => Map::new(),
    };
    settings.insert("model_max_length".into(), json!(longest));
    let class = match kind {
        "bert" => "BertTokenizer",
        "gpt2" => "GPT2Tokenizer",
        "roberta" => "RobertaTokenizer",
        _ => "XLMRobertaTokenizer",
    };
    settings.entry("tokenizer_class").or_insert_with(|| json!(class));
    let text = serde_json::to_vec_pretty(&settings).unwrap_or_default();
    write_atomically(&to.join("tokenizer_config.json"), |out| out.write_all(&text))?;
    Ok(copied)
}
