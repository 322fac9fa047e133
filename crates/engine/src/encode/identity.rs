//! The identity of an encoder's vectors: a hash of its files, and the settings that a caller may override.

use serde_json::{Value, json};

use super::{Similarity, TextEncoder};

impl TextEncoder {
    /// A hash of the configuration, weights, tokenizer and pipeline modules, as hexadecimal. O(bytes of the weights) time.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        part(self.model.config.as_bytes());
        self.model.checkpoint.iter().flat_map(|c| c.contents()).for_each(&mut part);
        // Serialising a loaded tokenizer does not fail.
        part(self.tokenizer.to_string(false).unwrap_or_default().as_bytes());
        self.pipeline.contents(&mut part);
        hasher.finalize().to_hex().to_string()
    }

    /// The other settings that vectors depend on, by name. They come from the model's directory and may be overridden.
    pub fn settings(&self) -> Value {
        let late = self.pipeline.late.as_ref().map(|late| format!("{late:?}"));
        json!({
            "pooling": self.pipeline.pooling.iter().map(|p| p.name()).collect::<Vec<_>>(),
            "normalize": self.pipeline.normalizes(),
            "include_prompt": self.pipeline.include_prompt,
            "prompts": self.pipeline.prompts,
            "default_prompt": self.pipeline.default_prompt,
            "late": late,
            "limit": self.limit,
            "dtype": self.model.dtype.name(),
            "truncate": self.pipeline.truncate,
            "similarity": self.pipeline.similarity.map(Similarity::name),
        })
    }
}
