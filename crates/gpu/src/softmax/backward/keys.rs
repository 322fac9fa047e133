//! The gradients of keys and values: one cube for each cell of keys and group, which walks the tiles of queries that visit
//! the cell, for all heads of the group.
#![allow(
    missing_docs,
    unsafe_code,
    reason = "what `#[cube]` writes: items without docs, and launchers that are unsafe"
)]

use cubecl::prelude::*;

use super::pair::{probability, through};
use crate::softmax::call::{Scalars, With};
use crate::softmax::lists::ENTRY;
use crate::softmax::score::{Place, keep, seen, tile_of};
use crate::tile::load::{Rows, load};
use crate::tile::product::{Product, product};

#[cube(launch_unchecked, create_dummy_kernel)]
pub(super) fn keys_kernel<E: Numeric, O: Numeric>(
    q: &[E],
    k: &[E],
    v: &[E],
    dout: &[E],
    lists: &[u32],
    bias: &[f32],
    alibi: &[f32],
    weights: &[f32],
    lse: &[f32],
    delta: &[f32],
    dk: &mut [O],
    dv: &mut [O],
    of: Scalars,
    #[comptime] with: With,
    #[define(E)] _elem: ElemType,
    #[define(O)] _out: ElemType,
) {
    let plan = comptime!(with.plan);
    let (by, bx) = comptime!((plan.by, plan.bx));
    let ni = comptime!(plan.rows / by);
    let nj = comptime!(plan.keys / bx);
    let nk = comptime!(plan.keys / by);
    let ne = comptime!(plan.slice / bx);
    let slices = comptime!(plan.slices(with.width));
    let v_slices = comptime!(plan.slices(with.value_width));
    let keys = comptime!(plan.keys);
    let rows = comptime!(plan.rows);
    let stride = comptime!(plan.slice_stride());
    let across = comptime!(plan.keys_stride());
    let scores_of =
        comptime!(Product { by, bx, rows: ni, columns: nj, terms: plan.slice, a: (stride, 1), b: (1, stride) });
    // The transpose of the scores times rows of queries.
    let sums_of = comptime!(Product { by, bx, rows: nk, columns: ne, terms: rows, a: (1, across), b: (stride, 1) });
    let y = UNIT_POS as usize / bx;
    let x = UNIT_POS as usize % bx;

    let b = CUBE_POS_Z as usize;
    let group = CUBE_POS_Y as usize;
    let cell = CUBE_POS_X as usize;
    let key0 = cell * keys;
    let per = of.h as usize / of.g as usize;
    // Free places of a cache beyond the last key have no entries, and gradients of zero.
    let there = clamp_max(select(key0 < of.s as usize, of.s as usize - key0, 0usize), keys);
    let places = clamp_max(of.room as usize - key0, keys);

    let mut a_tile = Shared::<[f32]>::new_slice(comptime!(rows * stride));
    let mut b_tile = Shared::<[f32]>::new_slice(comptime!(keys * stride));
    let mut scores = Shared::<[f32]>::new_slice(comptime!(rows * across));
    let mut slopes = Shared::<[f32]>::new_slice(comptime!(rows * across));
    let mut s = Array::<f32>::new(comptime!(ni * nj));
    let mut dp = Array::<f32>::new(comptime!(ni * nj));
    let mut sum_k = Array::<f32>::new(comptime!(slices * nk * ne));
    let mut sum_v = Array::<f32>::new(comptime!(v_slices * nk * ne));
    #[unroll]
    for i in 0..comptime!(slices * nk * ne) {
        sum_k[i] = 0.0f32;
    }
    #[unroll]
    for i in 0..comptime!(v_slices * nk * ne) {
        sum_v[i] = 0.0f32;
    }

    let token = (b * of.room as usize + key0) * of.g as usize + group;
    let k_rows =
        Rows { base: token * comptime!(with.width), stride: of.g as usize * comptime!(with.width), count: there };
    let v_rows = Rows {
        base: token * comptime!(with.value_width),
        stride: of.g as usize * comptime!(with.value_width),
        count: there,
    };
    for nth in 0..per {
        let head = group * per + nth;
        let plane = (b % of.plane_b as usize) * of.plane_h as usize + head % of.plane_h as usize;
        let mut begin = 0usize;
        let mut end = 0usize;
        if cell < of.cells as usize {
            let at = of.column as usize + plane * (of.cells as usize + 1) + cell;
            begin = lists[at] as usize;
            end = lists[at + 1] as usize;
        }
        for at in begin..end {
            let entry = of.entry as usize + lists[of.item as usize + at] as usize * ENTRY;
            let bits = lists[entry + 1];
            let log_weight = f32::reinterpret(lists[entry + 2]);
            let tile = lists[entry + 3] as usize;
            let first = lists[2 * tile] as usize;
            let count = lists[2 * tile + 1] as usize;
            let row0 = (b * of.t as usize + first) * of.h as usize + head;
            let q_rows =
                Rows { base: row0 * comptime!(with.width), stride: of.h as usize * comptime!(with.width), count };
            let o_rows = Rows {
                base: row0 * comptime!(with.value_width),
                stride: of.h as usize * comptime!(with.value_width),
                count,
            };
            #[unroll]
            for i in 0..comptime!(ni * nj) {
                s[i] = 0.0f32;
                dp[i] = 0.0f32;
            }
            for slice in 0..slices {
                sync_cube();
                load::<E>(
                    q,
                    &mut a_tile,
                    &q_rows,
                    slice * comptime!(plan.slice),
                    comptime!(tile_of(&with, rows, with.width, 1)),
                );
                load::<E>(
                    k,
                    &mut b_tile,
                    &k_rows,
                    slice * comptime!(plan.slice),
                    comptime!(tile_of(&with, keys, with.width, 1)),
                );
                sync_cube();
                product(&a_tile, &b_tile, &mut s, 0usize, scores_of);
            }
            for slice in 0..v_slices {
                sync_cube();
                load::<E>(
                    dout,
                    &mut a_tile,
                    &o_rows,
                    slice * comptime!(plan.slice),
                    comptime!(tile_of(&with, rows, with.value_width, 1)),
                );
                load::<E>(
                    v,
                    &mut b_tile,
                    &v_rows,
                    slice * comptime!(plan.slice),
                    comptime!(tile_of(&with, keys, with.value_width, 1)),
                );
                sync_cube();
                product(&a_tile, &b_tile, &mut dp, 0usize, scores_of);
            }
            keep(&s, &mut scores, with.plan);
            keep(&dp, &mut slopes, with.plan);
            for i in 0..ni {
                let row = y + i * by;
                for j in 0..nj {
                    let column = x + j * bx;
                    let own = row * across + column;
                    let mut p = 0.0f32;
                    let mut dy = 0.0f32;
                    if row < count && column < there {
                        if seen(lists, bits, row, column, &of, keys) {
                            let place = Place { b, head, query: first + row, key: key0 + column };
                            let product = scores[own];
                            p = probability(product, log_weight, lse, bias, alibi, weights, &place, &of, with);
                            let ds = p * (slopes[own] - delta[row0 + row * of.h as usize]);
                            dy = through(product, ds, &of, with);
                        }
                    }
                    scores[own] = p;
                    slopes[own] = dy;
                }
            }
            #[unroll]
            for slice in 0..v_slices {
                sync_cube();
                if comptime!(v_slices > 1) {
                    load::<E>(
                        dout,
                        &mut a_tile,
                        &o_rows,
                        slice * comptime!(plan.slice),
                        comptime!(tile_of(&with, rows, with.value_width, 1)),
                    );
                    sync_cube();
                }
                product(&scores, &a_tile, &mut sum_v, slice * comptime!(nk * ne), sums_of);
            }
            #[unroll]
            for slice in 0..slices {
                sync_cube();
                load::<E>(
                    q,
                    &mut a_tile,
                    &q_rows,
                    slice * comptime!(plan.slice),
                    comptime!(tile_of(&with, rows, with.width, 1)),
                );
                sync_cube();
                product(&slopes, &a_tile, &mut sum_k, slice * comptime!(nk * ne), sums_of);
            }
        }
    }
    #[unroll]
    for i in 0..nk {
        let key = y + i * by;
        if key < places {
            let at = token + key * of.g as usize;
            #[unroll]
            for n in 0..slices {
                #[unroll]
                for j in 0..ne {
                    let column = n * comptime!(plan.slice) + x + j * bx;
                    if column < comptime!(with.width) {
                        dk[at * comptime!(with.width) + column] = O::cast_from(sum_k[(n * nk + i) * ne + j]);
                    }
                }
            }
            #[unroll]
            for n in 0..v_slices {
                #[unroll]
                for j in 0..ne {
                    let column = n * comptime!(plan.slice) + x + j * bx;
                    if column < comptime!(with.value_width) {
                        dv[at * comptime!(with.value_width) + column] = O::cast_from(sum_v[(n * nk + i) * ne + j]);
                    }
                }
            }
        }
    }
}
