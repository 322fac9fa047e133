//! What is kept of a head between its segments, and the rows that a sweep prefetches.

use std::ops::Range;

use longreach_simd::cache::PrefetchQueue;
use longreach_simd::split::RowAddresses;

use super::super::segment::{Boundary, GateGradient, Shape};
use crate::fast_weights::Tokens;
use crate::fast_weights::decay::take;
use crate::fast_weights::pass::Prefetch;
use crate::sequences::Rows;

/// What is kept of a head between its segments.
pub(super) struct Kept<'m> {
    /// The state: `[K, V]` with erasure, otherwise transposed.
    pub(super) state: &'m mut [f32],
    /// The gradient to the state, transposed.
    pub(super) d_state: &'m mut [f32],
    /// One state per segment, transposed. With erasure it is the state before the segment; with a gate only, the state
    /// after it, without the write of the sequence's last token. Otherwise empty.
    pub(super) states: &'m mut [f32],
    /// The vectors that are erased, `[T + 1, V]`; empty without erasure.
    pub(super) w: &'m mut [f32],
    pub(super) boundary: Boundary<'m>,
    pub(super) gate_gradient: GateGradient,
}

impl<'m> Kept<'m> {
    /// The lengths of `states` and `w` for `tokens` tokens.
    pub(super) fn sizes(shape: Shape, tokens: usize) -> [usize; 2] {
        let Shape { max_tokens, k, v, gates, erases, .. } = shape;
        let states = if erases || gates > 0 { tokens.div_ceil(max_tokens) * k * v } else { 0 };
        [states, if erases { (tokens + 1) * v } else { 0 }]
    }

    pub(super) fn size(shape: Shape, tokens: usize) -> usize {
        Self::sizes(shape, tokens).iter().sum::<usize>()
            + 2 * shape.k * shape.v
            + shape.boundary_widths().iter().sum::<usize>()
    }

    #[inline(always)]
    pub(super) fn new(shape: Shape, tokens: usize, rest: &mut &'m mut [f32]) -> Self {
        let Shape { k, v, gates, .. } = shape;
        let [states, w] = Self::sizes(shape, tokens);
        Self {
            state: take(rest, k * v),
            d_state: take(rest, k * v),
            states: take(rest, states),
            w: take(rest, w),
            boundary: Boundary::new(shape, rest),
            gate_gradient: GateGradient::new(gates, k),
        }
    }
}

/// Prefetches the rows that are gathered next and those that are written during the pass.
pub(super) struct NextRows<'a, 't> {
    pub(super) x: &'a Tokens<'t>,
    /// The head and the tokens of the batch that are gathered next.
    pub(super) h: usize,
    pub(super) tokens: Range<usize>,
    pub(super) queries: bool,
    pub(super) d_o: Option<&'a Rows<'t>>,
    /// Arrays of which the rows from `at` on are prefetched, one per token.
    pub(super) arrays: [Option<RowAddresses>; 6],
    pub(super) at: usize,
}

impl Prefetch for NextRows<'_, '_> {
    fn queue_rows(&self, i: usize, queue: &mut PrefetchQueue) {
        for array in self.arrays.iter().flatten() {
            array.queue_prefetch(self.at + i, queue);
        }
        let t = self.tokens.start + i;
        if t >= self.tokens.end {
            return;
        }
        self.x.queue_rows(t, self.h, self.queries, queue);
        if let Some(d_o) = self.d_o {
            queue.add(self.x.of_value(d_o, t, self.h));
        }
    }
}
