//! InfLLM v2 (MiniCPM4): the first blocks, the most recent ones, and those selected by a group's heads via overlapping
//! summaries.
//!
//! Summaries are means of `kernel` keys at a stride of `stride`. Each head's softmax over the summaries that end before
//! the query is summed over the heads of the group and max-pooled over the summaries that overlap a block; the `top`
//! highest blocks are selected in addition to the forced ones.
//!
//! $$ N(i) = \{ j \le i : \lfloor j/b \rfloor \in I(i) \} $$
//!
//! [`select`] makes the selection and the block-sparse kernel attends. The gradient treats the selection as constant.
//! O(T (k + w / b) b H D + T² H D / stride) time. MiniCPM team 2025 (MiniCPM4), §2.2; InfLLM-V2, Zhao et al. 2025.
//!
//! The softmax is exact, where the authors' kernel estimates its sum from coarser summaries.
//!
//! Whether a query attends to all keys depends on its own position ([`InfLlmV2::dense_below`]), so that a text read at
//! once, in parts or token by token has the same outputs. The authors' code decides for a call as a whole, by the length
//! of the text so far: token by token it does the same, but in a text that is read at once and is long enough, the queries
//! before that position are sparse as well.

use std::ops::Range;

use serde::Deserialize;

use super::{Inputs, Sizes, packed_sequences};
use crate::{Error, error};

mod naive;
pub(crate) mod operation;
mod pattern;

pub use naive::naive;
pub use pattern::{Summarised, select, select_from, summaries};

pub(super) const OP: &str = "infllm_v2";

/// The parameters; the defaults are MiniCPM4's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InfLlmV2 {
    /// Keys per summary.
    pub kernel: usize,
    /// Distance between summaries, in keys.
    pub stride: usize,
    /// Keys per block; a multiple of the stride.
    pub block: usize,
    /// The number of initial blocks that are always attended to.
    pub init_blocks: usize,
    /// The number of most recent keys that are always attended to, as whole blocks in addition to the query's own.
    pub window: usize,
    /// The number of blocks selected in addition to the `window / block` of the window.
    pub top: usize,
    /// Queries that see fewer keys than this, their own included, attend to all of them.
    pub dense_below: usize,
}

impl Default for InfLlmV2 {
    fn default() -> Self {
        Self { kernel: 32, stride: 16, block: 64, init_blocks: 1, window: 2048, top: 64, dense_below: 8192 }
    }
}

impl InfLlmV2 {
    /// Errors on parameters that are inconsistent or out of range.
    pub fn parameters(&self) -> Result<(), Error> {
        error::parameter(OP, "stride", self.stride > 0, self.stride, "at least 1")?;
        let covers = self.kernel >= self.stride;
        error::parameter(OP, "kernel", covers, self.kernel, format!("at least the stride, {}", self.stride))?;
        let divides = self.block > 0 && self.block.is_multiple_of(self.stride);
        error::parameter(OP, "block", divides, self.block, format!("a multiple of the stride, {}", self.stride))?;
        error::parameter(OP, "top", self.chosen() > 0, self.top, "at least 1 without a window")?;
        let fits = self.kernel <= isize::MAX as usize && self.stride <= isize::MAX as usize;
        error::parameter(OP, "kernel", fits, self.kernel, format!("at most {}, as the stride", isize::MAX))
    }

    pub(super) fn check<T, F: Copy + Into<f64>>(&self, x: &Inputs<'_, T, F>) -> Result<(Sizes, usize), Error> {
        self.parameters()?;
        let (of, groups) = x.sizes(OP)?;
        of.within(OP)?;
        packed_sequences::reject(OP, x)?;
        Ok((of, groups))
    }

    /// What the lists of blocks are indexed by: sequences, groups of heads and queries.
    pub(super) fn lists(&self, of: &Sizes, groups: usize) -> (usize, usize, Range<usize>) {
        (of.batch, groups, of.queries.clone())
    }

    pub(super) fn choose(&self, x: &Inputs<'_, f64, f64>) -> Vec<Vec<u32>> {
        naive(x.q, x.k, x.scale, x.offset, self)
    }

    /// The number of summaries of a text of `tokens` tokens: its complete windows.
    pub fn complete(&self, tokens: usize) -> usize {
        tokens.saturating_add(self.stride).saturating_sub(self.kernel) / self.stride
    }

    /// Whether the query at position `i` attends to all keys.
    pub fn dense(&self, i: usize) -> bool {
        i + 1 < self.dense_below
    }

    /// The number of summaries, of `n`, that end at or before position `i`.
    fn visible(&self, i: usize, n: usize) -> usize {
        self.complete(i + 1).min(n)
    }

    /// The summaries pooled for a block, of `n`: from the one before its first to the last that starts in it.
    fn pooled(&self, block: usize, n: usize) -> Range<usize> {
        let per = self.block / self.stride;
        (block * per).saturating_sub(1).min(n)..((block + 1) * per).min(n)
    }

    /// Whether a query in block `own` always attends to this block.
    fn forced(&self, block: usize, own: usize) -> bool {
        block < self.init_blocks || block.saturating_add(self.window / self.block) >= own
    }

    /// The number of blocks that a query attends to, including forced ones.
    fn chosen(&self) -> usize {
        self.top.saturating_add(self.window / self.block)
    }
}
