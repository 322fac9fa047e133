//! InfLLM v2 (MiniCPM4): the first blocks, the latest ones, and those whose overlapping summaries the heads of a group like best together.
//!
//! Summaries are means of `kernel` keys, `stride` apart. Each head's softmax over the summaries that end before the query, summed over the heads
//! of the group, is pooled by maximum over the summaries that meet a block; the `top` highest blocks are chosen beside the forced ones.
//!
//! $$ N(i) = \{ j \le i : \lfloor j/b \rfloor \in I(i) \} $$
//!
//! [`select`] chooses; the family's kernel attends. The choice is a constant to the gradient.
//! O(T (k + w / b) b H D + T² H D / stride) time. MiniCPM team 2025 (MiniCPM4), §2.2; InfLLM-V2, Zhao et al. 2025.
//!
//! The softmax is exact, where the authors' kernel estimates its sum from coarser summaries.

use std::ops::Range;

use serde::Deserialize;

use super::{Inputs, Sizes, apart};
use crate::{Error, error};

mod naive;
mod pattern;

pub use naive::naive;
pub use pattern::select;

pub(super) const OP: &str = "infllm_v2";

/// The parameters; the defaults are MiniCPM4's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InfLlmV2 {
    /// Keys of a summary.
    pub kernel: usize,
    /// Keys between summaries.
    pub stride: usize,
    /// Keys of a block; a multiple of the stride.
    pub block: usize,
    /// How many of the first blocks are forced.
    pub init_blocks: usize,
    /// How many of the latest keys are forced, by whole blocks beside the query's own.
    pub window: usize,
    /// How many blocks are chosen beside the `window / block` of the window.
    pub top: usize,
    /// Shorter sequences are attended to densely.
    pub dense_below: usize,
}

impl Default for InfLlmV2 {
    fn default() -> Self {
        Self { kernel: 32, stride: 16, block: 64, init_blocks: 1, window: 2048, top: 64, dense_below: 8192 }
    }
}

impl InfLlmV2 {
    pub(super) fn check<T, F: Copy + Into<f64>>(&self, x: &Inputs<'_, T, F>) -> Result<(Sizes, usize), Error> {
        error::parameter(OP, "stride", self.stride > 0, self.stride, "at least 1")?;
        let covers = self.kernel >= self.stride;
        error::parameter(OP, "kernel", covers, self.kernel, format!("at least the stride, {}", self.stride))?;
        let divides = self.block > 0 && self.block.is_multiple_of(self.stride);
        error::parameter(OP, "block", divides, self.block, format!("a multiple of the stride, {}", self.stride))?;
        error::parameter(OP, "top", self.chosen() > 0, self.top, "at least 1 without a window")?;
        let fits = self.kernel <= isize::MAX as usize && self.stride <= isize::MAX as usize;
        error::parameter(OP, "kernel", fits, self.kernel, format!("at most {}, as the stride", isize::MAX))?;
        let (of, groups) = x.sizes(OP)?;
        of.within(OP)?;
        apart::none(OP, x)?;
        Ok((of, groups))
    }

    /// For what there is a list of blocks: sequences, groups of heads and queries.
    pub(super) fn lists(&self, of: &Sizes, groups: usize) -> (usize, usize, Range<usize>) {
        (of.batch, groups, of.queries.clone())
    }

    pub(super) fn choose(&self, x: &Inputs<'_, f64, f64>) -> Vec<Vec<u32>> {
        naive(x.q, x.k, x.scale, x.offset, self)
    }

    /// How many summaries end before position `i` or with it, of `n`.
    fn visible(&self, i: usize, n: usize) -> usize {
        ((i + 1).saturating_add(self.stride).saturating_sub(self.kernel) / self.stride).min(n)
    }

    /// The summaries pooled for a block, of `n`: one before its first to the last that begins in it.
    fn pooled(&self, block: usize, n: usize) -> Range<usize> {
        let per = self.block / self.stride;
        (block * per).saturating_sub(1).min(n)..((block + 1) * per).min(n)
    }

    /// Whether a block is forced for a query in block `own`.
    fn forced(&self, block: usize, own: usize) -> bool {
        block < self.init_blocks || block.saturating_add(self.window / self.block) >= own
    }

    /// How many blocks a query sees, the forced ones among them.
    fn chosen(&self) -> usize {
        self.top.saturating_add(self.window / self.block)
    }
}
