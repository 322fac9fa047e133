//! What the kernels of both passes have in common: the score of a pair, and where tiles and scores lie in shared memory.
#![allow(
    missing_docs,
    unsafe_code,
    reason = "what `#[cube]` writes: items without docs, and launchers that are unsafe"
)]

use cubecl::prelude::*;

use super::call::{Scalars, With};
use super::lists::FULL;
use crate::tile::Plan;
use crate::tile::load::Tile;

/// The score of a masked pair: finite, so that differences are not NaN.
pub(super) const HIDDEN: f32 = -1e30;

/// The score of a pair before the pattern's mask, given the product of query and key; `head` and `query` are those of the
/// row.
#[cube]
pub(super) fn score(
    product: f32,
    bias: &[f32],
    alibi: &[f32],
    weights: &[f32],
    at: &Place,
    of: &Scalars,
    #[comptime] with: With,
) -> f32 {
    let mut y = product * of.scale;
    if comptime!(with.softcap) {
        y = of.softcap * f32::tanh(y / of.softcap);
    }
    if comptime!(with.bias) {
        let plane = (at.b % of.bias_b as usize) * of.bias_h as usize + at.head % of.bias_h as usize;
        y += bias[(plane * of.t as usize + at.query) * of.s as usize + at.key];
    }
    if comptime!(with.alibi) {
        let position = of.offset as usize + at.query;
        let distance = select(position > at.key, position - at.key, at.key - position);
        y -= alibi[at.head] * f32::cast_from(distance);
    }
    if comptime!(with.weights) {
        y += weights[at.b * of.s as usize + at.key];
    }
    y
}

/// A pair of a query and a key.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Place {
    pub(super) b: usize,
    pub(super) head: usize,
    pub(super) query: usize,
    pub(super) key: usize,
}

/// Whether an entry's bits have the pair `(row, column)`; `first` is the index of its first word, or [`FULL`].
#[cube]
pub(super) fn seen(
    lists: &[u32],
    first: u32,
    row: usize,
    column: usize,
    of: &Scalars,
    #[comptime] keys: usize,
) -> bool {
    let mut bit = true;
    if first != FULL {
        let word = of.bits as usize + first as usize + row * comptime!(keys / 32) + column / 32;
        bit = (lists[word] >> (column as u32 % 32u32)) & 1u32 == 1u32;
    }
    bit
}

#[cube]
pub(super) fn keep(from: &Array<f32>, to: &mut Shared<[f32]>, #[comptime] plan: Plan) {
    let (by, bx) = comptime!((plan.by, plan.bx));
    let nj = comptime!(plan.keys / bx);
    let y = UNIT_POS as usize / bx;
    let x = UNIT_POS as usize % bx;
    #[unroll]
    for i in 0..comptime!(plan.rows / by) {
        #[unroll]
        for j in 0..nj {
            to[(y + i * by) * comptime!(plan.keys_stride()) + x + j * bx] = from[i * nj + j];
        }
    }
}

/// The shape of a tile of `rows` rows of `width` channels, a slice at a time.
pub(super) fn tile_of(with: &With, rows: usize, width: usize, stack: usize) -> Tile {
    Tile {
        rows,
        columns: with.plan.slice,
        stride: with.plan.slice_stride(),
        width,
        stack,
        units: with.plan.units(),
        store: with.store,
    }
}
