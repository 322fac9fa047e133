//! Attention sinks: the first tokens and the most recent ones.
//!
//! $$ N(i) = \{ j \le i : j < s \ \text{or}\ i - j < r \} $$
//!
//! O(T (s + r) H D) time; the KV cache has `s + r` keys, regardless of the text's length. Models with relative
//! positions count them **within the cache** once it is full: keys are cached unrotated, key `n` of the cache is
//! rotated to position `n` and the query to the last ([`Streaming::cache`]). [`chunk`] computes this for many queries
//! at once, from keys rotated to their positions in the text. Xiao et al. 2024 (StreamingLLM), §3.2.

use serde::Deserialize;

mod naive;
pub(crate) mod operation;
mod pattern;
mod rolling;

pub use rolling::{Gradients, Rolling, backward, chunk};

/// The pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Streaming {
    /// The number of initial tokens that every query attends to; 4 in the paper.
    #[serde(default = "four")]
    pub sinks: usize,
    /// The number of most recent tokens that a query attends to, including its own; at least 1.
    pub recent: usize,
}

fn four() -> usize {
    4
}

impl Streaming {
    /// The tokens in the cache after `seen` tokens, oldest first: item `n` is the token cached at position `n`.
    pub fn cache(&self, seen: usize) -> impl Iterator<Item = usize> + use<> {
        let sinks = self.sinks.min(seen);
        (0..sinks).chain(seen.saturating_sub(self.recent).max(sinks)..seen)
    }
}
