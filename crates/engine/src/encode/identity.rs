//! What tells the vectors of one encoder from those of another: what cannot be changed as a hash, what can be changed by name.

use serde_json::{Value, json};

use super::{Similarity, TextEncoder};

impl TextEncoder {
    /// A hash of configuration, weights and tokenizer, and of what the modules behind the pooling hold. O(bytes of the weights) time.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        part(self.model.config.as_bytes());
        self.model.checkpoint.iter().flat_map(|c| c.contents()).for_each(&mut part);
        // A tokenizer that was loaded can be written.
        part(self.tokenizer.to_string(false).unwrap_or_default().as_bytes());
        self.pipeline.contents(&mut part);
        hasher.finalize().to_hex().to_string()
    }

    /// What vectors depend on besides, by name: it is read from the model's directory and may be overridden.
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
