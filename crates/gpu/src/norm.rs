//! Norms of rows: `y = (x − μ) / √(σ² + ε) · w + b`, or without a mean, `y = x / √(mean x² + ε) · w` (Zhang & Sennrich 2019).
//!
//! `x: [.., C]` · `w b: [C]` f32. A cube has a row; sums are over units in their order, whatever the size of a plane.
#![allow(
    missing_docs,
    unsafe_code,
    reason = "what `#[cube]` writes: items without docs, and launchers that are unsafe"
)]

use cubecl::prelude::*;

use crate::device::Device;
use crate::error::{Error, shape};
use crate::launch::{buffer, cubes, launch, row_cubes};
use crate::softmax::narrowed;
use crate::tile::load::{Store, read};
use crate::tile::row::{UNITS, total};
use crate::view::{DType, View};

/// A norm and its parameters.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Whether the mean is subtracted (layer norm).
    pub centred: bool,
    /// `ε`
    pub epsilon: f32,
    /// `w`, `[C]`, f32; ones if absent
    pub weight: Option<View>,
    /// `b`, `[C]`, f32; zeros if absent
    pub bias: Option<View>,
}

/// The gradients of a norm's inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// As `x`
    pub x: View,
    /// `[C]`, f32; also where there is no weight
    pub weight: View,
    /// `[C]`, f32; also where there is no bias
    pub bias: View,
}

/// Rows and columns. An error if weight or bias have another shape or type.
fn check(x: &View, norm: &Norm) -> Result<(usize, usize), Error> {
    let width = x.shape().last().copied().unwrap_or(0);
    for (input, option) in [("weight", &norm.weight), ("bias", &norm.bias)] {
        if let Some(of) = option {
            shape("norm", input, &[width], of.shape())?;
            of.is_f32("norm", input)?;
        }
    }
    Ok((if width == 0 { 0 } else { x.len() / width }, width))
}

/// The norm of each row, of the type of `x`. Errors on shapes and types that do not fit.
pub fn forward(device: &Device, x: &View, norm: &Norm) -> Result<View, Error> {
    let (rows, width) = check(x, norm)?;
    device.facts().check("norm", "x", x.dtype())?;
    let (elem, store) = x.stored(device);
    let out = View::empty(device, x.shape(), x.written(device));
    if rows > 0 {
        let none = View::empty(device, &[1], DType::F32);
        launch!(
            "cubes beyond the last row return, and columns are compared with the width",
            norm_kernel on device,
            row_cubes("norm", device, rows)?,
            CubeDim::new_1d(UNITS),
            buffer(device, x),
            buffer(device, norm.weight.as_ref().unwrap_or(&none)),
            buffer(device, norm.bias.as_ref().unwrap_or(&none)),
            buffer(device, &out),
            rows as u32,
            width as u32,
            norm.epsilon,
            With { centred: norm.centred, weight: norm.weight.is_some(), bias: norm.bias.is_some(), store },
            elem,
            out.stored(device).0,
        );
    }
    narrowed(device, out, x.dtype())
}

/// The gradients given that of the output, `d`, of the shape and type of `x`.
pub fn backward(device: &Device, x: &View, norm: &Norm, d: &View) -> Result<Gradient, Error> {
    /// Rows whose sums one cube adds up.
    const ROWS: usize = 256;
    let (rows, width) = check(x, norm)?;
    shape("norm backward", "dy", x.shape(), d.shape())?;
    x.same_type("norm backward", "dy", d)?;
    let (elem, store) = x.stored(device);
    let with = With { centred: norm.centred, weight: norm.weight.is_some(), bias: norm.bias.is_some(), store };
    let parts = rows.div_ceil(ROWS).max(1);
    let dx = View::empty(device, x.shape(), x.written(device));
    let moments = View::empty(device, &[rows, 2], DType::F32);
    let sums = View::empty(device, &[parts, 2, width], DType::F32);
    let [dweight, dbias] = [0, 1].map(|_| View::empty(device, &[width], DType::F32));
    if width == 0 {
        return Ok(Gradient { x: narrowed(device, dx, x.dtype())?, weight: dweight, bias: dbias });
    }
    let none = View::empty(device, &[1], DType::F32);
    if rows > 0 {
        launch!(
            "cubes beyond the last row return, and columns are compared with the width",
            input_kernel on device,
            row_cubes("norm backward", device, rows)?,
            CubeDim::new_1d(UNITS),
            buffer(device, x),
            buffer(device, d),
            buffer(device, norm.weight.as_ref().unwrap_or(&none)),
            buffer(device, &dx),
            buffer(device, &moments),
            rows as u32,
            width as u32,
            norm.epsilon,
            with,
            elem,
            dx.stored(device).0,
        );
    }
    let columns = width.div_ceil(UNITS as usize);
    launch!(
        "columns and rows are compared with their numbers",
        weight_kernel on device,
        cubes("norm backward", device, [columns, parts, 1])?,
        CubeDim::new_1d(UNITS),
        buffer(device, x),
        buffer(device, d),
        buffer(device, &moments),
        buffer(device, &sums),
        rows as u32,
        width as u32,
        ROWS as u32,
        store,
        elem,
    );
    launch!(
        "columns are compared with the width",
        sum_kernel on device,
        cubes("norm backward", device, [columns, 1, 1])?,
        CubeDim::new_1d(UNITS),
        buffer(device, &sums),
        buffer(device, &dweight),
        buffer(device, &dbias),
        parts as u32,
        width as u32,
    );
    Ok(Gradient { x: narrowed(device, dx, x.dtype())?, weight: dweight, bias: dbias })
}

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct With {
    centred: bool,
    weight: bool,
    bias: bool,
    store: Store,
}

/// The mean of a row and the reciprocal of its deviation.
#[derive(CubeType, Clone, Copy)]
struct Moments {
    mean: f32,
    scale: f32,
}

#[cube]
fn moments<E: Numeric>(
    x: &[E],
    base: usize,
    width: usize,
    epsilon: f32,
    sums: &mut Shared<[f32]>,
    #[comptime] with: With,
) -> Moments {
    let steps = width.div_ceil(comptime!(UNITS as usize));
    let mut mean = 0.0f32;
    if comptime!(with.centred) {
        let mut sum = 0.0f32;
        for step in 0..steps {
            let column = step * comptime!(UNITS as usize) + UNIT_POS as usize;
            if column < width {
                sum += read::<E>(x, base + column, with.store);
            }
        }
        mean = total(sum, sums) / f32::cast_from(width);
    }
    let mut square = 0.0f32;
    for step in 0..steps {
        let column = step * comptime!(UNITS as usize) + UNIT_POS as usize;
        if column < width {
            let value = read::<E>(x, base + column, with.store) - mean;
            square += value * value;
        }
    }
    let variance = total(square, sums) / f32::cast_from(width);
    Moments { mean, scale: 1.0f32 / f32::sqrt(variance + epsilon) }
}

#[cube(launch_unchecked, create_dummy_kernel)]
fn norm_kernel<E: Numeric, O: Numeric>(
    x: &[E],
    weight: &[f32],
    bias: &[f32],
    out: &mut [O],
    rows: u32,
    width: u32,
    epsilon: f32,
    #[comptime] with: With,
    #[define(E)] _elem: ElemType,
    #[define(O)] _out: ElemType,
) {
    let row = CUBE_POS;
    let width = width as usize;
    let mut sums = Shared::<[f32]>::new_slice(comptime!(UNITS as usize));
    if row < rows as usize {
        let base = row * width;
        let of = moments::<E>(x, base, width, epsilon, &mut sums, with);
        for step in 0..width.div_ceil(comptime!(UNITS as usize)) {
            let column = step * comptime!(UNITS as usize) + UNIT_POS as usize;
            if column < width {
                let mut value = (read::<E>(x, base + column, with.store) - of.mean) * of.scale;
                if comptime!(with.weight) {
                    value *= weight[column];
                }
                if comptime!(with.bias) {
                    value += bias[column];
                }
                out[base + column] = O::cast_from(value);
            }
        }
    }
}

/// `dx = r (ŵ − mean ŵ − x̂ mean(ŵ x̂))` with `ŵ = dy w`; the middle term only if centred.
#[cube(launch_unchecked, create_dummy_kernel)]
fn input_kernel<E: Numeric, O: Numeric>(
    x: &[E],
    d: &[E],
    weight: &[f32],
    dx: &mut [O],
    to: &mut [f32],
    rows: u32,
    width: u32,
    epsilon: f32,
    #[comptime] with: With,
    #[define(E)] _elem: ElemType,
    #[define(O)] _out: ElemType,
) {
    let row = CUBE_POS;
    let width = width as usize;
    let mut sums = Shared::<[f32]>::new_slice(comptime!(UNITS as usize));
    if row < rows as usize {
        let base = row * width;
        let of = moments::<E>(x, base, width, epsilon, &mut sums, with);
        let steps = width.div_ceil(comptime!(UNITS as usize));
        let mut plain = 0.0f32;
        let mut along = 0.0f32;
        for step in 0..steps {
            let column = step * comptime!(UNITS as usize) + UNIT_POS as usize;
            if column < width {
                let mut w = read::<E>(d, base + column, with.store);
                if comptime!(with.weight) {
                    w *= weight[column];
                }
                plain += w;
                along += w * (read::<E>(x, base + column, with.store) - of.mean) * of.scale;
            }
        }
        let along = total(along, &mut sums) / f32::cast_from(width);
        let mut middle = 0.0f32;
        if comptime!(with.centred) {
            middle = total(plain, &mut sums) / f32::cast_from(width);
        }
        for step in 0..steps {
            let column = step * comptime!(UNITS as usize) + UNIT_POS as usize;
            if column < width {
                let mut w = read::<E>(d, base + column, with.store);
                if comptime!(with.weight) {
                    w *= weight[column];
                }
                let unit = (read::<E>(x, base + column, with.store) - of.mean) * of.scale;
                dx[base + column] = O::cast_from(of.scale * (w - middle - unit * along));
            }
        }
        if UNIT_POS == 0 {
            to[2 * row] = of.mean;
            to[2 * row + 1] = of.scale;
        }
    }
}

/// The sums of `dy x̂` and `dy` over a part of the rows.
#[cube(launch_unchecked, create_dummy_kernel)]
fn weight_kernel<E: Numeric>(
    x: &[E],
    d: &[E],
    of: &[f32],
    sums: &mut [f32],
    rows: u32,
    width: u32,
    part: u32,
    #[comptime] store: Store,
    #[define(E)] _elem: ElemType,
) {
    let column = CUBE_POS_X as usize * comptime!(UNITS as usize) + UNIT_POS as usize;
    let width = width as usize;
    let from = CUBE_POS_Y as usize * part as usize;
    if column < width {
        let mut weight = 0.0f32;
        let mut bias = 0.0f32;
        for row in from..clamp_max(from + part as usize, rows as usize) {
            let value = read::<E>(d, row * width + column, store);
            weight += value * (read::<E>(x, row * width + column, store) - of[2 * row]) * of[2 * row + 1];
            bias += value;
        }
        let at = 2 * CUBE_POS_Y as usize * width + column;
        sums[at] = weight;
        sums[at + width] = bias;
    }
}

#[cube(launch_unchecked, create_dummy_kernel)]
fn sum_kernel(sums: &[f32], dweight: &mut [f32], dbias: &mut [f32], parts: u32, width: u32) {
    let column = CUBE_POS_X as usize * comptime!(UNITS as usize) + UNIT_POS as usize;
    let width = width as usize;
    if column < width {
        let mut weight = 0.0f32;
        let mut bias = 0.0f32;
        for part in 0..parts as usize {
            weight += sums[2 * part * width + column];
            bias += sums[(2 * part + 1) * width + column];
        }
        dweight[column] = weight;
        dbias[column] = bias;
    }
}
