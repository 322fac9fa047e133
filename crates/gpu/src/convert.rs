//! Tensors of any type to f32 and back. Recurrences compute in f32, whatever the types of their inputs.
#![allow(
    missing_docs,
    unsafe_code,
    clippy::too_many_arguments,
    reason = "what `#[cube]` writes: items without docs, and launchers that are unsafe; kernels take buffers one by one"
)]

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use crate::device::Device;
use crate::error::Error;
use crate::launch::{buffer, cubes, launch};
use crate::tile::load::{Store, narrowed, read};
use crate::view::{DType, View};

const UNITS: usize = 256;

/// The numbers in f32: the same buffer if they are.
pub(crate) fn widened(op: &'static str, device: &Device, input: &'static str, x: &View) -> Result<View, Error> {
    if x.dtype() == DType::F32 {
        return Ok(x.clone());
    }
    device.facts().check(op, input, x.dtype())?;
    let out = View::empty(device, x.shape(), DType::F32);
    let (of, store) = x.stored(device);
    if !x.is_empty() {
        launch!(
            "a unit reads and writes one number below the length of both",
            widen on device,
            in_rows(op, device, x.len())?,
            CubeDim::new_1d(UNITS as u32),
            buffer(device, x),
            buffer(device, &out),
            x.len() as u32,
            store,
            of,
        );
    }
    Ok(out)
}

/// Numbers in f32, rounded to a type: the same buffer if that is f32.
pub(crate) fn narrowed_to(op: &'static str, device: &Device, x: &View, dtype: DType) -> Result<View, Error> {
    if dtype == DType::F32 {
        return Ok(x.clone());
    }
    let out = View::empty(device, x.shape(), dtype);
    let (of, store) = out.stored(device);
    let each = if store == Store::Pairs { 2 } else { 1 };
    if !x.is_empty() {
        launch!(
            "a unit writes one element of the result, which holds one number or two, and reads as many below the count",
            narrow on device,
            in_rows(op, device, x.len().div_ceil(each))?,
            CubeDim::new_1d(UNITS as u32),
            buffer(device, x),
            buffer(device, &out),
            x.len() as u32,
            store,
            of,
        );
    }
    Ok(out)
}

/// Cubes for some units, in rows of cubes.
fn in_rows(op: &'static str, device: &Device, units: usize) -> Result<CubeCount, Error> {
    let all = units.div_ceil(UNITS);
    let across = all.min(1 << 15);
    cubes(op, device, [across, all.div_ceil(across), 1])
}

#[cube]
fn position() -> usize {
    (CUBE_POS_Y as usize * CUBE_COUNT_X as usize + CUBE_POS_X as usize) * 256 + UNIT_POS as usize
}

#[cube(launch_unchecked, create_dummy_kernel)]
fn widen<E: Numeric>(x: &[E], out: &mut [f32], count: u32, #[comptime] store: Store, #[define(E)] _of: ElemType) {
    let at = position();
    if at < count as usize {
        out[at] = read::<E>(x, at, store);
    }
}

#[cube(launch_unchecked, create_dummy_kernel)]
fn narrow<E: Numeric>(x: &[f32], out: &mut [E], count: u32, #[comptime] store: Store, #[define(E)] _of: ElemType) {
    let at = position();
    if comptime!(store == Store::Native) {
        if at < count as usize {
            out[at] = E::cast_from(x[at]);
        }
    } else if 2 * at < count as usize {
        let mut word = narrowed(x[2 * at]);
        if 2 * at + 1 < count as usize {
            word |= narrowed(x[2 * at + 1]) << 16u32;
        }
        out[at] = E::cast_from(word);
    }
}
