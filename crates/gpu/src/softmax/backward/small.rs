//! Sums around the two passes: `δ`, the gradients of sinks and of a bias that is broadcast.
#![allow(
    missing_docs,
    unsafe_code,
    reason = "what `#[cube]` writes: items without docs, and launchers that are unsafe"
)]

use cubecl::prelude::*;

use super::{Cotangent, OP};
use crate::device::Device;
use crate::error::Error;
use crate::launch::{buffer, cubes, elementwise, launch};
use crate::tile::load::{Store, read};
use crate::tile::row::UNITS;
use crate::view::{DType, View};

/// Zeros in f32.
pub(super) fn zeros(device: &Device, shape: &[usize]) -> View {
    let x = View::empty(device, shape, DType::F32);
    launch!(
        "units beyond the last element return",
        zero_kernel on device,
        elementwise(device, x.len().max(1)),
        CubeDim::new_1d(UNITS),
        buffer(device, &x),
    );
    x
}

#[cube(launch_unchecked, create_dummy_kernel)]
fn zero_kernel(x: &mut [f32]) {
    if ABSOLUTE_POS < x.len() {
        x[ABSOLUTE_POS] = 0.0f32;
    }
}

/// `δ = do · o − dlse`, `[B, T, H]`.
pub(super) fn delta(device: &Device, out: &View, d: &Cotangent) -> Result<View, Error> {
    let width = out.shape()[3];
    let delta = View::empty(device, &out.shape()[..3], DType::F32);
    if delta.is_empty() {
        return Ok(delta);
    }
    let (elem, store) = out.stored(device);
    launch!(
        "units beyond the last row return, and a row has `width` elements",
        delta_kernel on device,
        elementwise(device, delta.len()),
        CubeDim::new_1d(UNITS),
        buffer(device, out),
        buffer(device, &d.out),
        buffer(device, d.lse.as_ref().unwrap_or(&delta)),
        buffer(device, &delta),
        width as u32,
        d.lse.is_some(),
        store,
        elem,
    );
    Ok(delta)
}

#[cube(launch_unchecked, create_dummy_kernel)]
fn delta_kernel<E: Numeric>(
    out: &[E],
    dout: &[E],
    dlse: &[f32],
    delta: &mut [f32],
    width: u32,
    #[comptime] with_lse: bool,
    #[comptime] store: Store,
    #[define(E)] _elem: ElemType,
) {
    let row = ABSOLUTE_POS;
    if row < delta.len() {
        let mut sum = 0.0f32;
        for n in 0..width as usize {
            let at = row * width as usize + n;
            sum += read::<E>(out, at, store) * read::<E>(dout, at, store);
        }
        if comptime!(with_lse) {
            sum -= dlse[row];
        }
        delta[row] = sum;
    }
}

/// The gradient of sinks, `−Σ e^{sink − lse} δ` over the queries of each head.
pub(super) fn sinks(device: &Device, sinks: &View, lse: &View, delta: &View) -> Result<View, Error> {
    let heads = sinks.len();
    let gradient = View::empty(device, &[heads], DType::F32);
    if heads == 0 {
        return Ok(gradient);
    }
    launch!(
        "heads are the grid, and rows are compared with their number",
        sinks_kernel on device,
        cubes(OP, device, [heads, 1, 1])?,
        CubeDim::new_1d(UNITS),
        buffer(device, sinks),
        buffer(device, lse),
        buffer(device, delta),
        buffer(device, &gradient),
        (lse.len() / heads) as u32,
        heads as u32,
    );
    Ok(gradient)
}

#[cube(launch_unchecked, create_dummy_kernel)]
fn sinks_kernel(sinks: &[f32], lse: &[f32], delta: &[f32], gradient: &mut [f32], rows: u32, heads: u32) {
    let head = CUBE_POS_X as usize;
    let unit = UNIT_POS as usize;
    let mut sums = Shared::<[f32]>::new_slice(comptime!(UNITS as usize));
    let mut sum = 0.0f32;
    let rows = rows as usize;
    for n in 0..rows.div_ceil(comptime!(UNITS as usize)) {
        let row = n * comptime!(UNITS as usize) + unit;
        if row < rows {
            let at = row * heads as usize + head;
            sum -= f32::exp(sinks[head] - lse[at]) * delta[at];
        }
    }
    sums[unit] = sum;
    sync_cube();
    if unit == 0 {
        let mut total = 0.0f32;
        for n in 0..comptime!(UNITS as usize) {
            total += sums[n];
        }
        gradient[head] = total;
    }
}

/// The sum of `[B, H, T, S]` over the axes along which `shape` has one.
pub(super) fn reduced(device: &Device, all: &View, shape: &[usize]) -> Result<View, Error> {
    if all.shape() == shape {
        return Ok(all.clone());
    }
    let sum = View::empty(device, shape, DType::F32);
    if sum.is_empty() {
        return Ok(sum);
    }
    launch!(
        "units beyond the last element return, and its planes are those of `[B, H]`",
        reduce_kernel on device,
        elementwise(device, sum.len()),
        CubeDim::new_1d(UNITS),
        buffer(device, all),
        buffer(device, &sum),
        all.shape()[0] as u32,
        all.shape()[1] as u32,
        shape[0] as u32,
        shape[1] as u32,
    );
    Ok(sum)
}

#[cube(launch_unchecked, create_dummy_kernel)]
fn reduce_kernel(all: &[f32], sum: &mut [f32], batch: u32, heads: u32, to_batch: u32, to_heads: u32) {
    let at = ABSOLUTE_POS;
    if at < sum.len() {
        let plane = sum.len() / (to_batch as usize * to_heads as usize);
        let b = at / plane / to_heads as usize;
        let h = at / plane % to_heads as usize;
        let mut total = 0.0f32;
        for n in 0..batch as usize / to_batch as usize {
            for m in 0..heads as usize / to_heads as usize {
                let from = (b + n * to_batch as usize) * heads as usize + h + m * to_heads as usize;
                total += all[from * plane + at % plane];
            }
        }
        sum[at] = total;
    }
}
