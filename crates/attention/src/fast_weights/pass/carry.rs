//! What a pass does between two tokens: a carry from the reads of one to the writes of the next, and prefetching.

use std::ops::Range;

use longreach_simd::Lanes;
use longreach_simd::cache::PrefetchQueue;

/// A token and the next one in the order of the pass, for a block of columns.
pub(in crate::fast_weights) struct Step {
    /// The indices of the two tokens.
    pub(in crate::fast_weights) tokens: [usize; 2],
    /// The columns of each, as a range of `[tokens, columns]`.
    pub(in crate::fast_weights) columns: [Range<usize>; 2],
}

/// How the reads of a token change the writes of the next.
pub(in crate::fast_weights) trait Carry<const W: usize, const P: usize> {
    /// Whether they do: the last read must then be complete before the next token is written.
    const CARRIES: bool = true;
    /// Whether tokens read before they write. Only without a carry.
    const READS_FIRST: bool = false;

    /// Called when the first of the two tokens has been read.
    fn carry<S: Lanes>(&self, s: S, step: Step, written: &mut [&mut [f32]; W], out: &[&mut [f32]; P]);
}

/// The rows to prefetch during a pass: the rows that the next pass gathers are strided, and are loaded while this pass
/// computes.
pub(in crate::fast_weights) trait Prefetch {
    /// Queues the rows to prefetch during the `i`th token of this pass.
    fn queue_rows(&self, i: usize, queue: &mut PrefetchQueue);
}

/// A pass that prefetches nothing.
pub(in crate::fast_weights) struct NoPrefetch;

impl Prefetch for NoPrefetch {
    fn queue_rows(&self, _: usize, _: &mut PrefetchQueue) {}
}

/// No carry: the reads and writes of all tokens are independent.
pub(in crate::fast_weights) struct Independent;

impl<const W: usize, const P: usize> Carry<W, P> for Independent {
    const CARRIES: bool = false;

    #[inline(always)]
    fn carry<S: Lanes>(&self, _: S, _: Step, _: &mut [&mut [f32]; W], _: &[&mut [f32]; P]) {}
}

/// No carry, and tokens read the matrix before their own writes.
pub(in crate::fast_weights) struct ReadFirst;

impl<const W: usize, const P: usize> Carry<W, P> for ReadFirst {
    const CARRIES: bool = false;
    const READS_FIRST: bool = true;

    #[inline(always)]
    fn carry<S: Lanes>(&self, _: S, _: Step, _: &mut [&mut [f32]; W], _: &[&mut [f32]; P]) {}
}
