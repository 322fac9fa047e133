//! The forward pass: one cube for each tile of queries, or for part of its list.
#![allow(
    missing_docs,
    unsafe_code,
    reason = "what `#[cube]` writes: items without docs, and launchers that are unsafe"
)]

use cubecl::prelude::*;

use super::call::{Dims, Inputs, Listed, Scalars, With};
use super::lists::ENTRY;
use super::score::{HIDDEN, Place, keep, score, seen, tile_of};
use crate::device::Device;
use crate::error::Error;
use crate::launch::{buffer, cubes, launch, words};
use crate::tile::load::{Rows, Store, load};
use crate::tile::product::{Product, product};
use crate::view::{DType, View};

/// The output, and its log-sum-exp: −∞ for queries that attend to no key, whose output is zero.
#[derive(Clone, Debug)]
pub struct Output {
    /// `[B, T, H, E]`, of the type of the inputs
    pub out: View,
    /// `[B, T, H]`, f32
    pub lse: View,
}

/// Attention under a pattern. Errors on shapes and types that do not fit.
pub fn forward(device: &Device, x: &Inputs, listed: &Listed) -> Result<Output, Error> {
    let dims = x.check(device, &listed.of)?;
    let (out, lse) = run(device, x, listed, &dims, 1, 1)?;
    Ok(Output { out: super::merge::narrowed(device, out, x.q.dtype())?, lse })
}

/// Attention of few queries against many keys, as in decoding: the heads of a group are rows of one tile, and cubes divide
/// the keys among them. Errors as [`forward`].
pub fn few(device: &Device, x: &Inputs, listed: &Listed) -> Result<Output, Error> {
    /// Entries that one cube takes.
    const PART: usize = 8;
    let dims = x.check(device, &listed.of)?;
    let per = dims.h / dims.g;
    // A tile has at most all queries. Heads whose lists differ cannot share one.
    let stack = if listed.lists.planes.1 == 1 && per * dims.t <= listed.plan.rows { per } else { 1 };
    let splits = listed.lists.longest.div_ceil(PART).max(1);
    if splits == 1 {
        let (out, lse) = run(device, x, listed, &dims, stack, 1)?;
        return Ok(Output { out: super::merge::narrowed(device, out, x.q.dtype())?, lse });
    }
    let (out, lse) = run(device, x, listed, &dims, stack, splits)?;
    let merged = super::merge::parts(device, &out, &lse, x.sinks.as_ref(), splits, &[dims.b, dims.t, dims.h, dims.e])?;
    Ok(Output { out: super::merge::narrowed(device, merged.out, x.q.dtype())?, lse: merged.lse })
}

/// Runs the kernel. The output is `[splits, B, T, H, E]` in f32, except that one part on a device that has the type of the
/// inputs is written in it.
fn run(
    device: &Device,
    x: &Inputs,
    listed: &Listed,
    dims: &Dims,
    stack: usize,
    splits: usize,
) -> Result<(View, View), Error> {
    let (elem, store) = x.q.stored(device);
    let dtype = if store == Store::Native && splits == 1 { x.q.dtype() } else { DType::F32 };
    let parts: &[usize] = if splits > 1 { &[splits] } else { &[] };
    let shape = |last: &[usize]| [parts, last].concat();
    let out = View::empty(device, &shape(&[dims.b, dims.t, dims.h, dims.e]), dtype);
    let lse = View::empty(device, &shape(&[dims.b, dims.t, dims.h]), DType::F32);
    if lse.is_empty() {
        return Ok((out, lse));
    }
    let with = With { stack, split: splits > 1, ..x.with(dims, listed.plan, store) };
    let count = cubes("softmax", device, [listed.lists.tiles * splits, dims.h / stack, dims.b])?;
    let none = View::empty(device, &[1], DType::F32);
    let option = |option: &Option<View>| buffer(device, option.as_ref().unwrap_or(&none));
    launch!(
        "tiles, heads and batch are the grid; rows, keys and columns are compared with their sizes before each access, and \
         lists are made by `Lists::of` for these sizes",
        forward_kernel on device,
        count,
        CubeDim::new_1d(listed.plan.units() as u32),
        buffer(device, &x.q),
        buffer(device, &x.k),
        buffer(device, &x.v),
        words(&listed.words),
        option(&x.bias),
        option(&x.alibi),
        option(&x.sinks),
        option(&x.weights),
        buffer(device, &out),
        buffer(device, &lse),
        x.scalars(dims, listed, splits),
        with,
        elem,
        out.stored(device).0,
    );
    Ok((out, lse))
}

#[cube(launch_unchecked, create_dummy_kernel)]
fn forward_kernel<E: Numeric, O: Numeric>(
    q: &[E],
    k: &[E],
    v: &[E],
    lists: &[u32],
    bias: &[f32],
    alibi: &[f32],
    sinks: &[f32],
    weights: &[f32],
    out: &mut [O],
    lse: &mut [f32],
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
    let slices = comptime!(plan.slices(with.value_width));
    let stack = comptime!(with.stack);
    let keys = comptime!(plan.keys);
    let rows = comptime!(plan.rows);
    let stride = comptime!(plan.slice_stride());
    let across = comptime!(plan.keys_stride());
    let y = UNIT_POS as usize / bx;
    let x = UNIT_POS as usize % bx;

    let b = CUBE_POS_Z as usize;
    // The group of the cube's heads; without a stack, its head.
    let head = CUBE_POS_Y as usize;
    let per = of.h as usize / of.g as usize;
    let group = select(comptime!(stack > 1), head, head / per);
    let plane = (b % of.plane_b as usize) * of.plane_h as usize + (head * stack) % of.plane_h as usize;
    let splits = of.splits as usize;
    let split = CUBE_POS_X as usize % splits;
    let tile = lists[of.order as usize + plane * of.tiles as usize + CUBE_POS_X as usize / splits] as usize;
    let first = lists[2 * tile] as usize;
    let count = lists[2 * tile + 1] as usize * stack;
    let at = of.start as usize + plane * (of.tiles as usize + 1) + tile;
    let from = lists[at] as usize;
    let total = lists[at + 1] as usize - from;
    let part = total.div_ceil(splits);
    let begin = from + clamp_max(split * part, total);
    let end = from + clamp_max((split + 1) * part, total);

    let mut a_tile = Shared::<[f32]>::new_slice(comptime!(rows * stride));
    let mut b_tile = Shared::<[f32]>::new_slice(comptime!(keys * stride));
    let mut scores = Shared::<[f32]>::new_slice(comptime!(rows * across));
    let mut partial = Shared::<[f32]>::new_slice(comptime!(rows * bx));

    let mut s = Array::<f32>::new(comptime!(ni * nj));
    let mut o = Array::<f32>::new(comptime!(slices * ni * ne));
    let mut top = Array::<f32>::new(ni);
    let mut sum = Array::<f32>::new(ni);
    #[unroll]
    for i in 0..comptime!(slices * ni * ne) {
        o[i] = 0.0f32;
    }
    #[unroll]
    for i in 0..ni {
        top[i] = HIDDEN;
        sum[i] = 0.0f32;
    }

    let token = of.h as usize * comptime!(with.width);
    let queries =
        Rows { base: (b * of.t as usize + first) * token + head * comptime!(stack * with.width), stride: token, count };
    for at in begin..end {
        let entry = of.entry as usize + at * ENTRY;
        let cell = lists[entry] as usize * keys;
        let bits = lists[entry + 1];
        let log_weight = f32::reinterpret(lists[entry + 2]);
        let there = clamp_max(of.s as usize - cell, keys);
        let token = (b * of.room as usize + cell) * of.g as usize + group;

        #[unroll]
        for i in 0..comptime!(ni * nj) {
            s[i] = 0.0f32;
        }
        let k_rows =
            Rows { base: token * comptime!(with.width), stride: of.g as usize * comptime!(with.width), count: there };
        for slice in 0..comptime!(plan.slices(with.width)) {
            sync_cube();
            // One slice of queries is there from the first entry on.
            if comptime!(plan.slices(with.width) > 1) || at == begin {
                load::<E>(
                    q,
                    &mut a_tile,
                    &queries,
                    slice * comptime!(plan.slice),
                    comptime!(tile_of(&with, rows, with.width, stack)),
                );
            }
            load::<E>(
                k,
                &mut b_tile,
                &k_rows,
                slice * comptime!(plan.slice),
                comptime!(tile_of(&with, keys, with.width, 1)),
            );
            sync_cube();
            product(
                &a_tile,
                &b_tile,
                &mut s,
                0usize,
                comptime!(Product { by, bx, rows: ni, columns: nj, terms: plan.slice, a: (stride, 1), b: (1, stride) }),
            );
        }

        // The scores, and their maximum in each unit's columns. These loops are not unrolled: a driver's compiler takes long
        // for many branches.
        keep(&s, &mut scores, with.plan);
        for i in 0..ni {
            let row = y + i * by;
            let mut most = f32::new(HIDDEN);
            for j in 0..nj {
                let column = x + j * bx;
                let mut value = f32::new(HIDDEN);
                if row < count && column < there {
                    if seen(lists, bits, row / stack, column, &of, keys) {
                        let place = Place {
                            b,
                            head: head * stack + row % stack,
                            query: first + row / stack,
                            key: cell + column,
                        };
                        let product = scores[row * across + column];
                        value = score(product, bias, alibi, weights, &place, &of, with) + log_weight;
                    }
                }
                scores[row * across + column] = value;
                most = select(value > most, value, most);
            }
            partial[row * bx + x] = most;
        }
        sync_cube();
        #[unroll]
        for i in 0..ni {
            let row = y + i * by;
            let before = top[i];
            let mut most = before;
            for n in 0..bx {
                let value = partial[row * bx + n];
                most = select(value > most, value, most);
            }
            top[i] = most;
            let shrink = f32::exp(before - most);
            let mut added = 0.0f32;
            for j in 0..nj {
                let at = row * across + x + j * bx;
                let value = scores[at];
                // A NaN is not masked.
                let p = select(value <= HIDDEN, 0.0f32, f32::exp(value - most));
                added += p;
                scores[at] = p;
            }
            sum[i] = sum[i] * shrink + added;
            #[unroll]
            for n in 0..slices {
                #[unroll]
                for j in 0..ne {
                    o[(n * ni + i) * ne + j] *= shrink;
                }
            }
        }
        let v_rows = Rows {
            base: token * comptime!(with.value_width),
            stride: of.g as usize * comptime!(with.value_width),
            count: there,
        };
        #[unroll]
        for slice in 0..slices {
            sync_cube();
            load::<E>(
                v,
                &mut b_tile,
                &v_rows,
                slice * comptime!(plan.slice),
                comptime!(tile_of(&with, keys, with.value_width, 1)),
            );
            sync_cube();
            product(
                &scores,
                &b_tile,
                &mut o,
                slice * comptime!(ni * ne),
                comptime!(Product { by, bx, rows: ni, columns: ne, terms: keys, a: (across, 1), b: (stride, 1) }),
            );
        }
    }

    // The sums of a row are those of its units, which the maximum has in common.
    sync_cube();
    #[unroll]
    for i in 0..ni {
        partial[(y + i * by) * bx + x] = sum[i];
    }
    sync_cube();
    let outputs = split * of.t as usize * of.h as usize * CUBE_COUNT_Z as usize;
    #[unroll]
    for i in 0..ni {
        let row = y + i * by;
        if row < count {
            let mut total = 0.0f32;
            for n in 0..bx {
                total += partial[row * bx + n];
            }
            let mut most = top[i];
            let mut shrink = 1.0f32;
            let own = head * stack + row % stack;
            if comptime!(with.sinks && !with.split) {
                let sink = sinks[own];
                let higher = select(sink > most, sink, most);
                shrink = f32::exp(most - higher);
                total = total * shrink + f32::exp(sink - higher);
                most = higher;
            }
            let none = total == 0.0f32;
            let at = outputs + (b * of.t as usize + first + row / stack) * of.h as usize + own;
            let factor = select(none, 0.0f32, shrink / select(none, 1.0f32, total));
            #[unroll]
            for n in 0..slices {
                #[unroll]
                for j in 0..ne {
                    let column = n * comptime!(plan.slice) + x + j * bx;
                    if column < comptime!(with.value_width) {
                        out[at * comptime!(with.value_width) + column] =
                            O::cast_from(o[(n * ni + i) * ne + j] * factor);
                    }
                }
            }
            if x == 0 {
                lse[at] = select(none, of.none, most + f32::ln(select(none, 1.0f32, total)));
            }
        }
    }
}
