//! A linear layer of few rows, as in decoding: `y = x Wᵀ + b`, bound by reading the weights once.
//!
//! `x: [R, I]`, at most [`ROWS`] rows · `w: [O, I]`, of any type · `b: [O]` f32 → `[R, O]` f32. A cube has an output
//! channel; its units divide the inputs.
#![allow(
    missing_docs,
    unsafe_code,
    reason = "what `#[cube]` writes: items without docs, and launchers that are unsafe"
)]

use cubecl::prelude::*;

use crate::device::Device;
use crate::error::{Error, most, shape};
use crate::launch::{buffer, launch, row_cubes};
use crate::tile::load::{Store, read};
use crate::tile::row::{UNITS, total};
use crate::view::{DType, View};

/// The most rows.
pub const ROWS: usize = 8;

/// The product. Errors on shapes and types that do not fit, and on more than [`ROWS`] rows.
pub fn few_rows(device: &Device, x: &View, w: &View, b: Option<&View>) -> Result<View, Error> {
    let axis = |of: &View, at: usize| of.shape().get(at).copied().unwrap_or(0);
    let (rows, inputs, outputs) = (axis(x, 0), axis(x, 1), axis(w, 0));
    shape("linear", "x", &[rows, inputs], x.shape())?;
    shape("linear", "w", &[outputs, inputs], w.shape())?;
    most("linear", "the number of rows", ROWS, rows)?;
    for (name, of) in [("x", x), ("w", w)] {
        device.facts().check("linear", name, of.dtype())?;
    }
    if let Some(b) = b {
        shape("linear", "b", &[outputs], b.shape())?;
        b.is_f32("linear", "b")?;
    }
    let out = View::empty(device, &[rows, outputs], DType::F32);
    if out.is_empty() {
        return Ok(out);
    }
    let ((x_elem, x_store), (w_elem, w_store)) = (x.stored(device), w.stored(device));
    let none = View::empty(device, &[1], DType::F32);
    launch!(
        "cubes beyond the last output channel return, and columns are compared with the number of inputs",
        linear_kernel on device,
        row_cubes("linear", device, outputs)?,
        CubeDim::new_1d(UNITS),
        buffer(device, x),
        buffer(device, w),
        buffer(device, b.unwrap_or(&none)),
        buffer(device, &out),
        inputs as u32,
        outputs as u32,
        With { rows, bias: b.is_some(), x: x_store, w: w_store },
        x_elem,
        w_elem,
    );
    Ok(out)
}

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct With {
    rows: usize,
    bias: bool,
    x: Store,
    w: Store,
}

#[cube(launch_unchecked, create_dummy_kernel)]
fn linear_kernel<E: Numeric, F: Numeric>(
    x: &[E],
    w: &[F],
    b: &[f32],
    out: &mut [f32],
    inputs: u32,
    outputs: u32,
    #[comptime] with: With,
    #[define(E)] _x: ElemType,
    #[define(F)] _w: ElemType,
) {
    let channel = CUBE_POS;
    let inputs = inputs as usize;
    let rows = comptime!(with.rows);
    let mut sums = Shared::<[f32]>::new_slice(comptime!(UNITS as usize));
    let mut sum = Array::<f32>::new(rows);
    if channel < outputs as usize {
        #[unroll]
        for row in 0..rows {
            sum[row] = 0.0f32;
        }
        for step in 0..inputs.div_ceil(comptime!(UNITS as usize)) {
            let column = step * comptime!(UNITS as usize) + UNIT_POS as usize;
            if column < inputs {
                let weight = read::<F>(w, channel * inputs + column, with.w);
                #[unroll]
                for row in 0..rows {
                    sum[row] += weight * read::<E>(x, row * inputs + column, with.x);
                }
            }
        }
        #[unroll]
        for row in 0..rows {
            let mut value = total(sum[row], &mut sums);
            if comptime!(with.bias) {
                value += b[channel];
            }
            if UNIT_POS == 0 {
                out[row * outputs as usize + channel] = value;
            }
        }
    }
}
