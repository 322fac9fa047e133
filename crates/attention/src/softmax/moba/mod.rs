//! Mixture of block attention: each query and head sees its own block and the blocks whose mean key it likes best.
//!
//! $$ N(i) = \{ j \le i : \lfloor j/b \rfloor \in I(i) \}, \qquad
//!    I(i) = \{ \lfloor i/b \rfloor \} \cup \mathrm{top}_{k-1}\{ q_i^\top \bar k_m : m < \lfloor i/b \rfloor \} $$
//!
//! [`select`] chooses; the family's kernel attends. The choice is a constant to the gradient, as in the paper.
//! O(T k b H D + T² H D / b) time. Lu et al. 2025 (MoBA), eq. 5–8.

use serde::Deserialize;

mod naive;
mod pattern;

/// The parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moba {
    /// `b`, keys of a block
    pub block: usize,
    /// `k`, how many blocks a query sees, its own among them
    pub top: usize,
}

pub use naive::naive;
pub use pattern::select;

const OP: &str = "moba";
