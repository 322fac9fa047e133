//! Results of parts of the keys, merged: `lse = ln Σ e^{lse_p}`, `o = Σ e^{lse_p − lse} o_p`.
#![allow(
    missing_docs,
    unsafe_code,
    reason = "what `#[cube]` writes: items without docs, and launchers that are unsafe"
)]

use cubecl::prelude::*;

use super::Output;
use crate::device::Device;
use crate::error::{Error, shape};
use crate::launch::{buffer, elementwise, launch};
use crate::tile::load::narrowed as bits;
use crate::tile::row::UNITS;
use crate::view::{DType, View};

/// Merges attention over disjoint parts of the keys. `out: [P, B, T, H, E]` · `lse: [P, B, T, H]`, both f32. Errors on
/// other shapes and types.
pub fn merge(device: &Device, out: &View, lse: &View) -> Result<Output, Error> {
    let [p, b, t, h, e] = out.shape()[..] else {
        return Err(Error::Shape { op: "merge", input: "out", want: vec![0; 5], found: out.shape().to_vec() });
    };
    shape("merge", "lse", &[p, b, t, h], lse.shape())?;
    parts(device, out, lse, None, p, &[b, t, h, e])
}

pub(super) fn parts(
    device: &Device,
    out: &View,
    lse: &View,
    sinks: Option<&View>,
    splits: usize,
    of: &[usize; 4],
) -> Result<Output, Error> {
    for (input, x) in [("out", out), ("lse", lse)] {
        if x.dtype() != DType::F32 {
            return Err(Error::Type { op: "merge", input, want: "f32", found: x.dtype().name() });
        }
    }
    let merged = Output { out: View::empty(device, of, DType::F32), lse: View::empty(device, &of[..3], DType::F32) };
    let rows = merged.lse.len();
    if rows == 0 {
        return Ok(merged);
    }
    let count = elementwise(device, rows);
    launch!(
        "units beyond the last row return, and a row has `splits` parts",
        merge_kernel on device,
        count,
        CubeDim::new_1d(UNITS),
        buffer(device, out),
        buffer(device, lse),
        buffer(device, sinks.unwrap_or(lse)),
        buffer(device, &merged.out),
        buffer(device, &merged.lse),
        rows as u32,
        splits as u32,
        of[3] as u32,
        of[2] as u32,
        f32::NEG_INFINITY,
        sinks.is_some(),
    );
    Ok(merged)
}

#[cube(launch_unchecked, create_dummy_kernel)]
fn merge_kernel(
    out: &[f32],
    lse: &[f32],
    sinks: &[f32],
    to: &mut [f32],
    to_lse: &mut [f32],
    rows: u32,
    splits: u32,
    width: u32,
    heads: u32,
    none: f32,
    #[comptime] with_sinks: bool,
) {
    let row = ABSOLUTE_POS;
    let rows = rows as usize;
    let width = width as usize;
    if row < rows {
        let mut most = none;
        if comptime!(with_sinks) {
            most = sinks[row % heads as usize];
        }
        for part in 0..splits as usize {
            let value = lse[part * rows + row];
            most = select(value > most, value, most);
        }
        let empty = most == none;
        // Differences of two −∞ are NaN.
        let base = select(empty, 0.0f32, most);
        let mut sum = 0.0f32;
        if comptime!(with_sinks) {
            sum = f32::exp(sinks[row % heads as usize] - base);
        }
        for part in 0..splits as usize {
            sum += f32::exp(lse[part * rows + row] - base);
        }
        let factor = select(empty, 0.0f32, 1.0f32 / select(empty, 1.0f32, sum));
        for column in 0..width {
            let mut value = 0.0f32;
            for part in 0..splits as usize {
                value += f32::exp(lse[part * rows + row] - base) * out[(part * rows + row) * width + column];
            }
            to[row * width + column] = value * factor;
        }
        to_lse[row] = select(empty, none, base + f32::ln(select(empty, 1.0f32, sum)));
    }
}

/// An f32 tensor in another type: where kernels cannot write bf16, they write f32, which is narrowed.
pub(crate) fn narrowed(device: &Device, x: View, dtype: DType) -> Result<View, Error> {
    if x.dtype() == dtype || x.is_empty() {
        return Ok(if x.dtype() == dtype { x } else { View::empty(device, x.shape(), dtype) });
    }
    let to = View::empty(device, x.shape(), dtype);
    let pairs = to.elements(device);
    let (elem, store) = to.stored(device);
    let count = elementwise(device, pairs);
    launch!(
        "units beyond the last element return, and the second of a pair is read if it is there",
        narrow_kernel on device,
        count,
        CubeDim::new_1d(UNITS),
        buffer(device, &x),
        buffer(device, &to),
        store == crate::tile::load::Store::Pairs,
        elem,
    );
    Ok(to)
}

#[cube(launch_unchecked, create_dummy_kernel)]
fn narrow_kernel<O: Numeric>(x: &[f32], to: &mut [O], #[comptime] pairs: bool, #[define(O)] _elem: ElemType) {
    let at = ABSOLUTE_POS;
    if at < to.len() {
        if comptime!(pairs) {
            let low = bits(x[2 * at]);
            let mut high = 0u32;
            if 2 * at + 1 < x.len() {
                high = bits(x[2 * at + 1]);
            }
            to[at] = O::cast_from(low | (high << 16u32));
        } else {
            to[at] = O::cast_from(x[at]);
        }
    }
}
