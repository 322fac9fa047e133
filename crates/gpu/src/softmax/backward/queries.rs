//! The gradient of queries, and of scores where there is a bias: one cube for each tile of queries, as forward.
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
pub(super) fn queries_kernel<E: Numeric, O: Numeric>(
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
    dq: &mut [O],
    dbias: &mut [f32],
    of: Scalars,
    #[comptime] with: With,
    #[define(E)] _elem: ElemType,
    #[define(O)] _out: ElemType,
) {
    let plan = comptime!(with.plan);
    let (by, bx) = comptime!((plan.by, plan.bx));
    let ni = comptime!(plan.rows / by);
    let nj = comptime!(plan.keys / bx);
    let ne = comptime!(plan.slice / bx);
    let slices = comptime!(plan.slices(with.width));
    let keys = comptime!(plan.keys);
    let rows = comptime!(plan.rows);
    let stride = comptime!(plan.slice_stride());
    let across = comptime!(plan.keys_stride());
    let scores_of =
        comptime!(Product { by, bx, rows: ni, columns: nj, terms: plan.slice, a: (stride, 1), b: (1, stride) });
    let y = UNIT_POS as usize / bx;
    let x = UNIT_POS as usize % bx;

    let b = CUBE_POS_Z as usize;
    let head = CUBE_POS_Y as usize;
    let group = head / (of.h as usize / of.g as usize);
    let plane = (b % of.plane_b as usize) * of.plane_h as usize + head % of.plane_h as usize;
    let tile = lists[of.order as usize + plane * of.tiles as usize + CUBE_POS_X as usize] as usize;
    let first = lists[2 * tile] as usize;
    let count = lists[2 * tile + 1] as usize;
    let at = of.start as usize + plane * (of.tiles as usize + 1) + tile;
    let begin = lists[at] as usize;
    let end = lists[at + 1] as usize;

    let mut a_tile = Shared::<[f32]>::new_slice(comptime!(rows * stride));
    let mut b_tile = Shared::<[f32]>::new_slice(comptime!(keys * stride));
    let mut scores = Shared::<[f32]>::new_slice(comptime!(rows * across));
    let mut slopes = Shared::<[f32]>::new_slice(comptime!(rows * across));
    let mut s = Array::<f32>::new(comptime!(ni * nj));
    let mut dp = Array::<f32>::new(comptime!(ni * nj));
    let mut sum = Array::<f32>::new(comptime!(slices * ni * ne));
    #[unroll]
    for i in 0..comptime!(slices * ni * ne) {
        sum[i] = 0.0f32;
    }

    let row0 = (b * of.t as usize + first) * of.h as usize + head;
    let q_rows = Rows { base: row0 * comptime!(with.width), stride: of.h as usize * comptime!(with.width), count };
    let o_rows =
        Rows { base: row0 * comptime!(with.value_width), stride: of.h as usize * comptime!(with.value_width), count };
    for at in begin..end {
        let entry = of.entry as usize + at * ENTRY;
        let cell = lists[entry] as usize * keys;
        let bits = lists[entry + 1];
        let log_weight = f32::reinterpret(lists[entry + 2]);
        let there = clamp_max(of.s as usize - cell, keys);
        let token = (b * of.room as usize + cell) * of.g as usize + group;
        let k_rows =
            Rows { base: token * comptime!(with.width), stride: of.g as usize * comptime!(with.width), count: there };
        let v_rows = Rows {
            base: token * comptime!(with.value_width),
            stride: of.g as usize * comptime!(with.value_width),
            count: there,
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
        for slice in 0..comptime!(plan.slices(with.value_width)) {
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
                let mut dy = 0.0f32;
                if row < count && column < there {
                    if seen(lists, bits, row, column, &of, keys) {
                        let place = Place { b, head, query: first + row, key: cell + column };
                        let product = scores[own];
                        let p = probability(product, log_weight, lse, bias, alibi, weights, &place, &of, with);
                        let ds = p * (slopes[own] - delta[row0 + row * of.h as usize]);
                        if comptime!(with.bias) {
                            let at = (b * of.h as usize + head) * of.t as usize + first + row;
                            dbias[at * of.s as usize + cell + column] = ds;
                        }
                        dy = through(product, ds, &of, with);
                    }
                }
                scores[own] = dy;
            }
        }
        #[unroll]
        for slice in 0..slices {
            sync_cube();
            load::<E>(
                k,
                &mut b_tile,
                &k_rows,
                slice * comptime!(plan.slice),
                comptime!(tile_of(&with, keys, with.width, 1)),
            );
            sync_cube();
            product(
                &scores,
                &b_tile,
                &mut sum,
                slice * comptime!(ni * ne),
                comptime!(Product { by, bx, rows: ni, columns: ne, terms: keys, a: (across, 1), b: (stride, 1) }),
            );
        }
    }
    #[unroll]
    for i in 0..ni {
        let row = y + i * by;
        if row < count {
            let at = (row0 + row * of.h as usize) * comptime!(with.width);
            #[unroll]
            for n in 0..slices {
                #[unroll]
                for j in 0..ne {
                    let column = n * comptime!(plan.slice) + x + j * bx;
                    if column < comptime!(with.width) {
                        dq[at + column] = O::cast_from(sum[(n * ni + i) * ne + j]);
                    }
                }
            }
        }
    }
}
