//! Packed keys and values, and the replacement policy of those that are packed on demand.

use std::ops::Range;

use longreach_simd::Lanes;

use super::super::super::mask::Entry;
use super::super::{Call, Panel, finite, pack_columns, pack_rows};

/// The replacement policy of the packed blocks: which are packed, and where.
pub(super) struct PackCache {
    /// For each slot, its block and the turn in which it was last used.
    pub(super) slots: Vec<(u32, usize)>,
    /// The slot of each block, if packed.
    pub(super) of: Vec<Option<u32>>,
    pub(super) turn: usize,
}

impl PackCache {
    pub(super) fn new(room: usize, blocks: usize) -> Self {
        Self { slots: vec![(u32::MAX, 0); room], of: vec![None; blocks], turn: 0 }
    }

    /// Starts the next tile: marks the packed blocks that it needs as used, so that they are not evicted.
    pub(super) fn next_turn(&mut self, entries: &[Entry]) {
        self.turn += 1;
        for entry in entries {
            if let Some(slot) = self.of[entry.keys as usize] {
                self.slots[slot as usize].1 = self.turn;
            }
        }
    }

    /// The slot of a block, and whether it must be packed there; if so, it replaces the least recently used block.
    pub(super) fn slot(&mut self, block: u32) -> (usize, bool) {
        if let Some(slot) = self.of[block as usize] {
            return (slot as usize, false);
        }
        let oldest = (0..self.slots.len()).min_by_key(|n| self.slots[*n].1).unwrap_or(0);
        if let Some(there) = self.of.get_mut(self.slots[oldest].0 as usize) {
            *there = None;
        }
        self.slots[oldest] = (block, self.turn);
        self.of[block as usize] = Some(oldest as u32);
        (oldest, true)
    }
}

/// Packed keys and values, in panels of one vector of keys.
pub(super) struct Packed<'a> {
    /// Panels `[D, LANES]`.
    pub(super) k: &'a mut [f32],
    /// Panels `[LANES, wide]`.
    pub(super) v: &'a mut [f32],
    pub(super) d: usize,
    pub(super) wide: usize,
    /// Non-finite values with the slots of their keys: zero times them would spoil rows that do not attend to them.
    pub(super) non_finite: Vec<(usize, Vec<f32>)>,
}

impl<'a> Packed<'a> {
    pub(super) fn new(memory: &'a mut [f32], d: usize, wide: usize) -> Self {
        let (k, v) = memory.split_at_mut(memory.len() / (d + wide) * d);
        Self { k, v, d, wide, non_finite: Vec::new() }
    }

    /// Drops the non-finite values of these slots.
    pub(super) fn forget(&mut self, slots: Range<usize>) {
        self.non_finite.retain(|(at, _)| !slots.contains(at));
    }

    #[inline(always)]
    pub(super) fn pack<S: Lanes>(&mut self, s: S, call: &Call<'_>, b: usize, g: usize, panel: Panel) {
        let (d, wide, at) = (self.d, self.wide, panel.at * S::LANES);
        let there = panel.key..(panel.key + S::LANES).min(call.dims.s);
        pack_columns(s, &call.k, b, g, there.clone(), &mut self.k[at * d..][..S::LANES * d]);
        let values = &mut self.v[at * wide..][..S::LANES * wide];
        pack_rows(s, &call.v, b, g, there, wide, values);
        if !finite(s, values) {
            for (i, row) in values.chunks_exact_mut(wide).enumerate() {
                if row.iter().any(|x| !x.is_finite()) {
                    self.non_finite.push((at + i, row.to_vec()));
                    row.fill(0.0);
                }
            }
        }
    }
}
