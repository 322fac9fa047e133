//! A band of distances, the pattern of windows, dense attention and the phases of dilated patterns.

use std::ops::Range;

use super::mask::{Entry, Pattern, Sizes, band, span};

/// Query `i` attends to key `j` if `nearest ≤ i − j ≤ farthest`; future keys have negative distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Band {
    pub(super) name: &'static str,
    pub(super) nearest: isize,
    pub(super) farthest: isize,
}

impl Band {
    /// The keys that query `i` attends to, of `keys`.
    fn keys(&self, i: usize, keys: usize) -> Range<usize> {
        let at = |distance: isize| (i as isize).saturating_sub(distance).clamp(0, keys as isize) as usize;
        at(self.farthest)..at(self.nearest.saturating_sub(1))
    }
}

impl Pattern for Band {
    fn name(&self) -> &'static str {
        self.name
    }

    fn count(&self, _: &Sizes, _: usize, _: usize, i: usize, j: usize) -> u32 {
        (self.nearest..=self.farthest).contains(&(i as isize - j as isize)).into()
    }

    fn visit(&self, of: &Sizes, _: usize, _: usize, queries: Range<usize>, keys: Range<usize>, row: &mut Vec<Entry>) {
        let (first, last) = (self.keys(queries.start, of.keys), self.keys(queries.end - 1, of.keys));
        let some = first.start.max(keys.start)..last.end.min(keys.end);
        band(row, self.block().1, of.keys, some, last.start..first.end);
    }

    fn seen(&self, of: &Sizes, _: usize, _: usize, i: usize, keys: Range<usize>) -> u64 {
        span(self.keys(i, of.keys), keys)
    }
}
