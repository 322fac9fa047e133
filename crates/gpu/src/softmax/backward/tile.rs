//! A tile of queries and a cell of keys: the products that both walks of the backward pass need, the one over keys and the one
//! over queries.
#![allow(missing_docs, reason = "what `#[cube]` writes has no docs")]

use cubecl::prelude::*;

use crate::softmax::call::With;
use crate::softmax::score::{keep, tile_of};
use crate::tile::load::{Rows, load};
use crate::tile::product::{Product, product};

/// Where the rows of a tile and of a cell are.
#[derive(CubeType)]
pub(super) struct TileRows {
    pub(super) q: Rows,
    pub(super) k: Rows,
    pub(super) v: Rows,
    /// The gradients of the outputs.
    pub(super) dout: Rows,
}

/// Writes `q kᵀ` to `scores` and `dout vᵀ` to `slopes`, both `[rows, keys]`; `s` and `dp` are a unit's registers for them. Other
/// units read what is written after the next `sync_cube`.
#[cube]
pub(super) fn products<E: Numeric>(
    q: &[E],
    k: &[E],
    v: &[E],
    dout: &[E],
    of: &TileRows,
    a_tile: &mut Shared<[f32]>,
    b_tile: &mut Shared<[f32]>,
    s: &mut Array<f32>,
    dp: &mut Array<f32>,
    scores: &mut Shared<[f32]>,
    slopes: &mut Shared<[f32]>,
    #[comptime] with: With,
) {
    pair_products::<E>(q, &of.q, k, &of.k, a_tile, b_tile, s, with.width, with);
    pair_products::<E>(dout, &of.dout, v, &of.v, a_tile, b_tile, dp, with.value_width, with);
    keep(s, scores, with.plan);
    keep(dp, slopes, with.plan);
}

/// The products of all pairs of rows of `width` channels, a slice of the channels at a time, in a unit's registers.
#[cube]
fn pair_products<E: Numeric>(
    a: &[E],
    of_a: &Rows,
    b: &[E],
    of_b: &Rows,
    a_tile: &mut Shared<[f32]>,
    b_tile: &mut Shared<[f32]>,
    to: &mut Array<f32>,
    #[comptime] width: usize,
    #[comptime] with: With,
) {
    let plan = comptime!(with.plan);
    let (by, bx) = comptime!((plan.by, plan.bx));
    let ni = comptime!(plan.rows / by);
    let nj = comptime!(plan.keys / bx);
    let stride = comptime!(plan.slice_stride());
    #[unroll]
    for i in 0..comptime!(ni * nj) {
        to[i] = 0.0f32;
    }
    for slice in 0..comptime!(plan.slices(width)) {
        sync_cube();
        load::<E>(a, a_tile, of_a, slice * comptime!(plan.slice), comptime!(tile_of(&with, plan.rows, width, 1)));
        load::<E>(b, b_tile, of_b, slice * comptime!(plan.slice), comptime!(tile_of(&with, plan.keys, width, 1)));
        sync_cube();
        product(
            a_tile,
            b_tile,
            to,
            0usize,
            comptime!(Product { by, bx, rows: ni, columns: nj, terms: plan.slice, a: (stride, 1), b: (1, stride) }),
        );
    }
}
