//! Mixture of block attention: each query and head attends to its own block and to those with the highest-scoring mean
//! keys.
//!
//! $$ N(i) = \{ j \le i : \lfloor j/b \rfloor \in I(i) \}, \qquad
//!    I(i) = \{ \lfloor i/b \rfloor \} \cup \mathrm{top}_{k-1}\{ q_i^\top \bar k_m : m < \lfloor i/b \rfloor \} $$
//!
//! [`select`] makes the selection and the block-sparse kernel attends. The gradient treats the selection as constant,
//! as in the paper.
//! O(T k b H D + T² H D / b) time. Lu et al. 2025 (MoBA), eq. 5–8.

use std::ops::Range;

use serde::Deserialize;

use super::{Inputs, Sizes, packed_sequences};
use crate::{Error, error};

mod naive;
pub(crate) mod operation;
mod pattern;

/// The parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moba {
    /// `b`, keys per block
    pub block: usize,
    /// `k`, the number of blocks that a query attends to, including its own
    pub top: usize,
}

pub use naive::naive;
pub use pattern::select;

pub(super) const OP: &str = "moba";

impl Moba {
    pub(super) fn check<T, F: Copy + Into<f64>>(&self, x: &Inputs<'_, T, F>) -> Result<(Sizes, usize), Error> {
        error::parameter(OP, "block", self.block > 0, self.block, "at least 1")?;
        error::parameter(OP, "top", self.top > 0, self.top, "at least 1")?;
        let (of, groups) = x.sizes(OP)?;
        of.within(OP)?;
        packed_sequences::reject(OP, x)?;
        Ok((of, groups))
    }

    /// What the lists of blocks are indexed by: sequences, heads and queries.
    pub(super) fn lists(&self, of: &Sizes, _: usize) -> (usize, usize, Range<usize>) {
        (of.batch, of.heads, of.queries.clone())
    }

    pub(super) fn choose(&self, x: &Inputs<'_, f64, f64>) -> Vec<Vec<u32>> {
        naive(x.q, x.k, x.offset, self)
    }
}
