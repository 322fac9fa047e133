//! Attention sinks: the first tokens and the latest ones.
//!
//! $$ N(i) = \{ j \le i : j < s \ \text{or}\ i - j < r \} $$
//!
//! O(T (s + r) H D) time; a cache of `s + r` keys, however long the text. Models with relative positions count them **within the cache** once
//! it is full: the keys are kept unrotated, key `n` of the cache is rotated to position `n` and the query to the last ([`Streaming::cache`]). [`chunk`] gives that for many
//! queries at once, from keys rotated to their positions in the text.
//! Xiao et al. 2024 (StreamingLLM), §3.2.

use serde::Deserialize;

mod naive;
mod pattern;
mod rolling;

pub use rolling::{Gradients, Rolling, backward, chunk};

/// The pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Streaming {
    /// How many of the first tokens every query sees; 4 in the paper.
    #[serde(default = "four")]
    pub sinks: usize,
    /// How many of the latest tokens a query sees, its own among them; at least 1.
    pub recent: usize,
}

fn four() -> usize {
    4
}

impl Streaming {
    /// The tokens in the cache after `seen` tokens, oldest first: entry `n` holds the token that stands at position `n`.
    pub fn cache(&self, seen: usize) -> impl Iterator<Item = usize> + use<> {
        let sinks = self.sinks.min(seen);
        (0..sinks).chain(seen.saturating_sub(self.recent).max(sinks)..seen)
    }
}
