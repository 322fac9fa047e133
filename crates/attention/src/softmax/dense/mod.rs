//! Dense attention: every query attends to all keys, or to those up to its own position.
//!
//! $$ N(i) = \{ j \} \quad\text{or}\quad \{ j \le i \} $$
//!
//! O(T S H (D + E)) time, O(T H E) memory.
//! Vaswani et al. 2017, eq. 1; grouped heads: Ainslie et al. 2023; tiles: Dao et al. 2022 (FlashAttention).

use serde::Deserialize;

mod naive;
pub(crate) mod operation;
mod pattern;

/// The pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dense {
    /// Whether a query attends only to keys up to its own position.
    #[serde(default)]
    pub causal: bool,
}
