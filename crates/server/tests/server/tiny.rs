//! Small models with random weights and a tokenizer of single bytes, whose answers are any bytes.

use burn::tensor::Device;
use longreach_engine::Engine;
use longreach_models::{DType, Model, Progress};
use serde_json::{Value, json};

/// The text of each special token, from id 256 on. The first one ends texts.
const SPECIAL: [&str; 3] = ["<|end|>", "<|im_start|>", "<|im_end|>"];

const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% if think %}<think>{% endif %}{% endif %}{# </think> #}";

/// The character of a byte in a byte-level vocabulary.
fn character(byte: u8) -> char {
    let own = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let others = (0..byte).filter(|b| !own(*b)).count() as u32;
    if own(byte) { char::from(byte) } else { char::from_u32(256 + others).expect("a character") }
}

fn tokenizer() -> Value {
    let vocabulary: serde_json::Map<String, Value> =
        (0..=255u8).map(|byte| (character(byte).to_string(), byte.into())).collect();
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(i, content)| {
            json!({"id": 256 + i, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    json!({"version": "1.0", "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []}})
}

/// A model with these blocks, and a chat template.
pub(crate) fn engine(blocks: &str) -> Engine {
    engine_with(blocks, "")
}

/// As [`engine`], with further fields of the configuration.
pub(crate) fn engine_with(blocks: &str, more: &str) -> Engine {
    engine_of(blocks, more, TEMPLATE)
}

/// As [`engine_with`], with another chat template.
pub(crate) fn engine_of(blocks: &str, more: &str, template: &str) -> Engine {
    let config = format!(
        r#"{{"model_type": "longreach", "vocab_size": 259, "hidden_size": 24, "num_hidden_layers": 2, "head_dim": 12,
            "eos_token_id": 256, {more} {blocks}}}"#
    );
    let model = Model::random("config.json", &config, 7, &Device::flex()).expect("a model");
    let folder = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    model.save(DType::F32, &folder.path().join("model.safetensors")).expect("saved");
    write("config.json", &config);
    write("tokenizer.json", &tokenizer().to_string());
    write("chat_template.jinja", template);
    Engine::load(folder.path(), None, Progress::Hidden).expect("a model")
}
