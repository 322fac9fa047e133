//! Masks beside the pattern.

use std::ops::Range;

use ndarray::ArrayView2;

use super::mask::{Bits, Entry, Sizes, span};
use crate::{Error, Sequences};

/// Masks other than the pattern: padding, and the bounds of packed sequences.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    /// The padding mask, one row per sequence of the batch.
    keep: Option<Vec<Bits>>,
    /// For each position, the keys of its packed sequence.
    own: Option<Vec<Range<usize>>>,
}

impl Limits {
    pub(crate) fn of(
        op: &'static str,
        of: &Sizes,
        keep: Option<ArrayView2<'_, bool>>,
        sequences: Sequences<'_>,
    ) -> Result<Self, Error> {
        let keep = keep.map(|keep| keep.outer_iter().map(|row| Bits::of(row.iter().copied())).collect());
        let own = match sequences {
            Sequences::Batch => None,
            Sequences::Packed(bounds) => {
                let ranges = sequences.ranges(op, of.batch, of.keys)?;
                if of.queries.end > of.keys {
                    return Err(Error::Boundaries {
                        op,
                        tokens: of.queries.end,
                        batch: of.batch,
                        found: bounds.to_vec(),
                    });
                }
                Some(ranges.into_iter().flat_map(|range| range.clone().map(move |_| range.clone())).collect())
            }
        };
        Ok(Self { keep, own })
    }

    pub(super) fn differ(&self) -> bool {
        self.keep.is_some()
    }

    /// Whether anything may be masked.
    pub(crate) fn any(&self) -> bool {
        self.keep.is_some() || self.own.is_some()
    }

    /// The keys that any of the queries may attend to.
    pub(super) fn keys(&self, of: &Sizes, queries: &Range<usize>) -> Range<usize> {
        self.own.as_ref().map_or(0..of.keys, |own| own[queries.start].start..own[queries.end - 1].end)
    }

    /// Removes masked blocks from the entries from `first` on, and marks partly masked ones as cut.
    pub(super) fn apply(
        &self,
        of: &Sizes,
        b: usize,
        queries: &Range<usize>,
        block: usize,
        row: &mut Vec<Entry>,
        first: usize,
    ) {
        let allowed = self.keys(of, queries);
        let one = self.own.as_ref().is_none_or(|own| own[queries.start] == own[queries.end - 1]);
        let mut end = first;
        for at in first..row.len() {
            let mut entry = row[at];
            let keys = entry.keys as usize * block..((entry.keys as usize + 1) * block).min(of.keys);
            let there = keys.start.max(allowed.start)..keys.end.min(allowed.end);
            if there.is_empty() {
                continue;
            }
            entry.cut |= !one || there != keys;
            if let Some(keep) = &self.keep {
                let kept = keep[b].count(keys.clone());
                if kept == 0 {
                    continue;
                }
                entry.cut |= kept < keys.len();
            }
            row[end] = entry;
            end += 1;
        }
        row.truncate(end);
    }

    /// As [`Pattern::seen`](super::mask::Pattern::seen).
    #[inline]
    pub(crate) fn seen(&self, b: usize, i: usize, keys: Range<usize>) -> u64 {
        let own = self.own.as_ref().map_or(u64::MAX, |own| span(own[i].clone(), keys.clone()));
        own & self.keep.as_ref().map_or(u64::MAX, |keep| keep[b].get(keys))
    }
}
