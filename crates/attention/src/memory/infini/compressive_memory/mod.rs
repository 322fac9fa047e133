//! The compressive memory of one group of one sequence, read and written with matrix products, one piece of a segment
//! at a time.

use std::ops::Range;

use crate::sequences::Rows;

mod backward;
mod block;
mod forward;
mod memory;

pub(super) use backward::Backward;
pub(super) use forward::Forward;

/// Tokens per matrix product.
const TOKENS: usize = 256;

/// The inputs of a call, split into one slice per token.
pub(super) struct Call<'a> {
    pub(super) q: Rows<'a>,
    pub(super) k: Rows<'a>,
    pub(super) v: Rows<'a>,
    /// Each head's gate after the sigmoid: the weight of the memory.
    pub(super) shares: Vec<f32>,
    /// Pieces of segments, and whether the segment ends with the piece.
    pub(super) pieces: Vec<(Range<usize>, bool)>,
    pub(super) tokens: usize,
    pub(super) heads: usize,
    pub(super) groups: usize,
    pub(super) key: usize,
    pub(super) value: usize,
    pub(super) delta: bool,
    pub(super) epsilon: f32,
}

impl Call<'_> {
    fn heads_of(&self, group: usize) -> Range<usize> {
        let shared = self.heads / self.groups;
        group * shared..(group + 1) * shared
    }
}
