//! A sliding window: every query attends to the keys within a distance on either side.
//!
//! $$ N(i) = \{ j : -r \le i - j \le l \} $$
//!
//! Distances are inclusive: a causal window of `W` tokens, in Hugging Face's definition, has `l = W − 1` and `r = 0`.
//! O(T (l + r + 1) H D) time. The receptive field after `L` layers is `L (W − 1) + 1` tokens. Beltagy et al. 2020
//! (Longformer), §3.1; Jiang et al. 2023 (Mistral 7B), §2.

use serde::Deserialize;

use crate::{Error, error};

mod naive;
pub(crate) mod operation;
mod pattern;

/// The pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The number of keys to the left of a query's own.
    pub left: usize,
    /// The number of keys to the right.
    #[serde(default)]
    pub right: usize,
}

impl Window {
    /// The last `width` tokens, including the query's own. An error if `width` is 0.
    pub fn causal(width: usize) -> Result<Self, Error> {
        error::parameter("window", "width", width > 0, width, "at least 1")?;
        Ok(Self { left: width - 1, right: 0 })
    }
}
