//! An arbitrary pattern, given as a boolean mask, as compressed rows, or as a predicate.
//!
//! $$ N(i) = \{ j : M_{ij} \} $$
//!
//! The cost is proportional to the blocks that contain an unmasked pair; the block size is chosen to minimise it. For
//! very sparse masks the cost is proportional to the unmasked pairs themselves.

use ndarray::ArrayView4;

use super::mask::Bits;
use crate::{Error, error};

mod naive;
pub(crate) mod operation;
mod pattern;

/// A mask for each sequence and head, or one shared by all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masked {
    planes: (usize, usize),
    queries: usize,
    keys: usize,
    /// One row per plane and query.
    rows: Vec<Row>,
    block: usize,
    /// Whether pairs are processed individually.
    scattered: bool,
}

/// The cost of a pair in blocks of 16, or processed individually, relative to large blocks.
const SMALL_BLOCK_COST: f64 = 1.8;
const ALONE: f64 = 16.0;

/// The unmasked keys of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    /// The blocks of 16 keys that contain some, ascending.
    blocks: Vec<u32>,
    /// Their bit mask in each block.
    kept: Vec<u16>,
}

impl Masked {
    /// From booleans `[B or 1, H or 1, T, S]`.
    pub fn dense(mask: ArrayView4<'_, bool>) -> Self {
        let (b, h, t, s) = mask.dim();
        let rows =
            mask.rows().into_iter().map(|row| Row::of(row.iter().enumerate().filter(|(_, m)| **m).map(|(j, _)| j)));
        Self::of((b, h), t, s, rows.collect())
    }

    /// From compressed sparse rows, shared by all sequences and heads: query `i` attends to the keys
    /// `indices[start[i] .. start[i + 1]]`, in any order. Errors on inconsistent indices.
    pub fn compressed(start: &[usize], indices: &[usize], keys: usize) -> Result<Self, Error> {
        let rises = start.first() == Some(&0) && start.is_sorted() && start.last() == Some(&indices.len());
        error::parameter("masked", "start", rises, start, format!("rising from 0 to {}", indices.len()))?;
        let beyond = indices.iter().find(|j| **j >= keys);
        error::none("masked", "indices", beyond, format!("keys below {keys}"))?;
        let rows = start.windows(2).map(|w| {
            let mut row = indices[w[0]..w[1]].to_vec();
            row.sort_unstable();
            Row::of(row.into_iter())
        });
        Ok(Self::of((1, 1), start.len() - 1, keys, rows.collect()))
    }

    /// From a predicate of head, query and key, evaluated once for each triple; shared by all sequences.
    pub fn predicate(heads: usize, queries: usize, keys: usize, keep: impl Fn(usize, usize, usize) -> bool) -> Self {
        let row = |h: usize, i: usize| Row::of((0..keys).filter(|j| keep(h, i, *j)));
        let rows = (0..heads).flat_map(|h| (0..queries).map(move |i| (h, i))).map(|(h, i)| row(h, i)).collect();
        Self::of((1, heads), queries, keys, rows)
    }

    /// The number of unmasked pairs in all planes.
    pub fn kept(&self) -> usize {
        self.rows.iter().flat_map(|row| &row.kept).map(|kept| kept.count_ones() as usize).sum()
    }

    fn of(planes: (usize, usize), queries: usize, keys: usize, rows: Vec<Row>) -> Self {
        let mut masked = Self { planes, queries, keys, rows, block: 16, scattered: false };
        // Large blocks cost less per pair; small ones contain fewer masked pairs.
        let pairs = |block: usize| masked.blocks(block) as f64 * (block * block) as f64;
        let (small, large) = (SMALL_BLOCK_COST * pairs(16), pairs(64));
        masked.block = if small < large { 16 } else { 64 };
        masked.scattered = ALONE * (masked.kept() as f64) < small.min(large);
        masked
    }

    /// The number of square blocks that contain an unmasked pair.
    fn blocks(&self, block: usize) -> usize {
        let mut count = 0;
        let wide = self.keys.div_ceil(block);
        for plane in self.rows.chunks(self.queries.max(1)) {
            for rows in plane.chunks(block) {
                let mut held = Bits::of(std::iter::repeat_n(false, wide));
                rows.iter().flat_map(|row| &row.blocks).for_each(|at| held.set(*at as usize * 16 / block));
                count += held.count(0..wide);
            }
        }
        count
    }
}

impl Row {
    fn of(keys: impl Iterator<Item = usize>) -> Self {
        let mut row = Self { blocks: Vec::new(), kept: Vec::new() };
        for j in keys {
            if row.blocks.last() != Some(&((j / 16) as u32)) {
                row.blocks.push((j / 16) as u32);
                row.kept.push(0);
            }
            if let Some(kept) = row.kept.last_mut() {
                *kept |= 1 << (j % 16);
            }
        }
        row
    }

    fn get(&self, block: usize) -> u16 {
        self.blocks.binary_search(&(block as u32)).map_or(0, |at| self.kept[at])
    }
}
