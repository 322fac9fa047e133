//! The built-in model.

use longreach_models::Files;

/// A small Mamba-2 language model trained by this project; see `models/default/README.md`.
pub const EMBEDDED: Files = Files {
    name: "the embedded model",
    config: include_str!("../../../models/default/config.json"),
    weights: include_bytes!("../../../models/default/model.safetensors"),
};

/// Its tokenizer.
pub(crate) const TOKENIZER: &str = include_str!("../../../models/default/tokenizer.json");
