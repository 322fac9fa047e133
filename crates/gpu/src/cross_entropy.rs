//! Cross-entropy of rows of logits, `−ln softmax(x)[target]`, and its gradient.
//!
//! `x: [R, V]` · targets: R below `V`, or [`IGNORED`] → `[R]` f32.
#![allow(
    missing_docs,
    unsafe_code,
    reason = "what `#[cube]` writes: items without docs, and launchers that are unsafe"
)]

use cubecl::prelude::*;

use crate::device::Device;
use crate::error::{Error, shape};
use crate::launch::{buffer, launch, row_cubes, words};
use crate::softmax::narrowed;
use crate::tile::load::{Store, read};
use crate::tile::row::{UNITS, highest, total};
use crate::view::{DType, View, Words};

/// The target of a row that is left out: its loss and gradient are 0.
pub const IGNORED: u32 = u32::MAX;

/// Targets on a device.
#[derive(Clone, Debug)]
pub struct Targets {
    words: Words,
    count: usize,
    classes: usize,
}

impl Targets {
    /// Targets among `classes`. An error if one is neither below that nor [`IGNORED`].
    pub fn new(device: &Device, targets: &[u32], classes: usize) -> Result<Self, Error> {
        if let Some(found) = targets.iter().find(|target| **target != IGNORED && **target as usize >= classes) {
            let want = format!("below the {classes} classes");
            return Err(Error::Parameter { op: "cross-entropy", parameter: "target", want, found: found.to_string() });
        }
        Ok(Self { words: Words::upload(device, targets), count: targets.len(), classes })
    }
}

/// The loss of each row, `[R]`, and the gradient of the logits for a loss that is the sum of all rows times `scale`, of the
/// shape and type of `x`. Errors on shapes that do not fit.
pub fn forward(device: &Device, x: &View, targets: &Targets, scale: f32) -> Result<(View, View), Error> {
    shape("cross-entropy", "logits", &[targets.count, targets.classes], x.shape())?;
    device.facts().check("cross-entropy", "logits", x.dtype())?;
    let (elem, store) = x.stored(device);
    let loss = View::empty(device, &[targets.count], DType::F32);
    let gradient = View::empty(device, x.shape(), x.written(device));
    if targets.count > 0 {
        launch!(
            "cubes beyond the last row return, columns are compared with the width, and targets are below it",
            cross_entropy_kernel on device,
            row_cubes("cross-entropy", device, targets.count)?,
            CubeDim::new_1d(UNITS),
            buffer(device, x),
            words(&targets.words),
            buffer(device, &loss),
            buffer(device, &gradient),
            targets.count as u32,
            targets.classes as u32,
            scale,
            store,
            elem,
            gradient.stored(device).0,
        );
    }
    Ok((loss, narrowed(device, gradient, x.dtype())?))
}

#[cube(launch_unchecked, create_dummy_kernel)]
fn cross_entropy_kernel<E: Numeric, O: Numeric>(
    x: &[E],
    targets: &[u32],
    loss: &mut [f32],
    gradient: &mut [O],
    rows: u32,
    width: u32,
    scale: f32,
    #[comptime] store: Store,
    #[define(E)] _elem: ElemType,
    #[define(O)] _out: ElemType,
) {
    let row = CUBE_POS;
    let width = width as usize;
    let mut sums = Shared::<[f32]>::new_slice(comptime!(UNITS as usize));
    if row < rows as usize {
        let base = row * width;
        let target = targets[row];
        let steps = width.div_ceil(comptime!(UNITS as usize));
        let mut most = f32::new(-3.0e38);
        for step in 0..steps {
            let column = step * comptime!(UNITS as usize) + UNIT_POS as usize;
            if column < width {
                let value = read::<E>(x, base + column, store);
                most = select(value > most, value, most);
            }
        }
        let most = highest(most, &mut sums);
        let mut sum = 0.0f32;
        for step in 0..steps {
            let column = step * comptime!(UNITS as usize) + UNIT_POS as usize;
            if column < width {
                sum += f32::exp(read::<E>(x, base + column, store) - most);
            }
        }
        let sum = total(sum, &mut sums);
        let there = target != IGNORED;
        let factor = select(there, scale, 0.0f32);
        for step in 0..steps {
            let column = step * comptime!(UNITS as usize) + UNIT_POS as usize;
            if column < width {
                let p = f32::exp(read::<E>(x, base + column, store) - most) / sum;
                let own = select(column == target as usize, 1.0f32, 0.0f32);
                gradient[base + column] = O::cast_from((p - own) * factor);
            }
        }
        if UNIT_POS == 0 {
            let mut value = 0.0f32;
            if there {
                value = most + f32::ln(sum) - read::<E>(x, base + target as usize, store);
            }
            loss[row] = value;
        }
    }
}
