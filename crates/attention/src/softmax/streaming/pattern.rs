//! The first columns and a band below the diagonal.

use std::ops::Range;

use super::Streaming;
use crate::softmax::mask::{Entry, Packing, Pattern, Sizes, band, join, span};
use crate::{Error, error};

impl Streaming {
    /// The most recent keys that query `i` attends to, of `keys`.
    fn latest(&self, i: usize, keys: usize) -> Range<usize> {
        (i + 1).saturating_sub(self.recent).min(keys)..(i + 1).min(keys)
    }
}

impl Pattern for Streaming {
    fn name(&self) -> &'static str {
        "streaming"
    }

    fn check(&self, _: &Sizes) -> Result<(), Error> {
        error::parameter("streaming", "recent", self.recent > 0, self.recent, "at least 1")
    }

    fn packing(&self) -> Packing {
        Packing::Sequence
    }

    fn count(&self, _: &Sizes, _: usize, _: usize, i: usize, j: usize) -> u32 {
        self.sees(i, j).into()
    }

    fn visit(&self, of: &Sizes, _: usize, _: usize, queries: Range<usize>, keys: Range<usize>, row: &mut Vec<Entry>) {
        let (at, block) = (row.len(), self.block().1);
        let (first, last) = (self.latest(queries.start, of.keys), self.latest(queries.end - 1, of.keys));
        let sinks = self.sinks.min(of.keys);
        band(row, block, of.keys, keys.start..sinks.min(last.end).min(keys.end), 0..sinks.min(first.end));
        band(row, block, of.keys, first.start.max(keys.start)..last.end.min(keys.end), last.start..first.end);
        join(row, at);
    }

    fn seen(&self, of: &Sizes, _: usize, _: usize, i: usize, keys: Range<usize>) -> u64 {
        let latest = self.latest(i, of.keys);
        span(0..self.sinks.min(latest.end), keys.clone()) | span(latest, keys)
    }
}

/// The keys before the window: `j ≤ i − r`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beyond {
    pub(super) recent: usize,
}

impl Beyond {
    fn keys(&self, i: usize, keys: usize) -> Range<usize> {
        0..(i + 1).saturating_sub(self.recent).min(keys)
    }
}

impl Pattern for Beyond {
    fn name(&self) -> &'static str {
        "streaming"
    }

    fn count(&self, of: &Sizes, _: usize, _: usize, i: usize, j: usize) -> u32 {
        self.keys(i, of.keys).contains(&j).into()
    }

    fn visit(&self, of: &Sizes, _: usize, _: usize, queries: Range<usize>, keys: Range<usize>, row: &mut Vec<Entry>) {
        let (first, last) = (self.keys(queries.start, of.keys), self.keys(queries.end - 1, of.keys));
        band(row, self.block().1, of.keys, keys.start..last.end.min(keys.end), first);
    }

    fn seen(&self, of: &Sizes, _: usize, _: usize, i: usize, keys: Range<usize>) -> u64 {
        span(self.keys(i, of.keys), keys)
    }
}
