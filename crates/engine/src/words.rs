//! Word-level vocabularies of Transformer-XL checkpoints: `vocab.pkl`, or `vocab.bin` in the old `torch.save` format.
//!
//! Text must be in the WikiText format: words and punctuation separated by spaces, `@-@`, `@,@` and `@.@` inside words; a line ending becomes `<eos>`. Unknown
//! words become `<unk>`. The Moses tokenizer, which would bring other text into this format, is not implemented.

use std::path::Path;

use pytorch_reader::{PickleValue, PytorchReader};
use serde_json::json;

use crate::Error;

/// Converts the vocabulary of a directory to a `tokenizer.json`; `None` if there is none.
pub(crate) fn find(directory: &Path) -> Result<Option<String>, Error> {
    let files = ["vocab.pkl", "vocab.bin"].map(|name| directory.join(name));
    let Some(file) = files.iter().find(|file| file.exists()) else { return Ok(None) };
    let wrong = |message: String| Error::Tokenizer { file: file.display().to_string(), message };
    let found = PytorchReader::read_pickle_data(file, Some("idx2sym"));
    let PickleValue::List(symbols) = found.map_err(|e| wrong(format!("not a vocabulary: {e}")))? else {
        return Err(wrong("`idx2sym`: want a list".into()));
    };
    let mut vocabulary = serde_json::Map::new();
    for (id, symbol) in symbols.into_iter().enumerate() {
        let PickleValue::String(symbol) = symbol else {
            return Err(wrong(format!("`idx2sym`: symbol {id} is not a string")));
        };
        // Some files hold UTF-8 that was decoded as Latin-1.
        let bytes: Option<Vec<u8>> = symbol.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
        let mended = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or(symbol);
        vocabulary.entry(mended).or_insert(json!(id));
    }
    let unknown = "<unk>";
    if !vocabulary.contains_key(unknown) {
        return Err(wrong(format!("has no `{unknown}`")));
    }
    let eos = vocabulary.contains_key("<eos>");
    let lines = json!({"type": "Replace", "pattern": {"String": "\n"}, "content": " <eos> "});
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": if eos { lines } else { json!(null) },
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": unknown},
    });
    Ok(Some(tokenizer.to_string()))
}
