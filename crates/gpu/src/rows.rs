//! Rows of a table by index: embedding, and its gradient.
//!
//! `table: [N, C]` · indices: R below `N` → `[R, C]`.
#![allow(
    missing_docs,
    unsafe_code,
    reason = "what `#[cube]` writes: items without docs, and launchers that are unsafe"
)]

use cubecl::prelude::*;

use crate::device::Device;
use crate::error::{Error, shape};
use crate::launch::{buffer, elementwise, launch, words};
use crate::softmax::narrowed;
use crate::tile::load::{Store, read};
use crate::tile::row::UNITS;
use crate::view::{DType, View, Words};

/// Indices of rows on a device, and for the gradient, where each row of the table is read.
#[derive(Clone, Debug)]
pub struct Indices {
    /// The indices.
    words: Words,
    /// For each row of the table the start among the places, and the end; then the places, by row and in order.
    places: Words,
    rows: usize,
    count: usize,
}

impl Indices {
    /// Indices into a table of `rows` rows. An error if one is not below that.
    pub fn new(device: &Device, indices: &[u32], rows: usize) -> Result<Self, Error> {
        if let Some(found) = indices.iter().find(|index| **index as usize >= rows) {
            let want = format!("below the {rows} rows of the table");
            return Err(Error::Parameter { op: "rows", parameter: "index", want, found: found.to_string() });
        }
        let mut places = vec![0u32; rows + 1];
        for index in indices {
            places[*index as usize + 1] += 1;
        }
        for row in 0..rows {
            places[row + 1] += places[row];
        }
        let mut next = places.clone();
        places.resize(rows + 1 + indices.len(), 0);
        for (place, index) in indices.iter().enumerate() {
            places[rows + 1 + next[*index as usize] as usize] = place as u32;
            next[*index as usize] += 1;
        }
        let [words, places] = [indices, &places].map(|of| Words::upload(device, of));
        Ok(Self { words, places, rows, count: indices.len() })
    }
}

/// The rows, `[R, C]`, of the type of the table. An error if the table has another number of rows than the indices were
/// made for.
pub fn forward(device: &Device, table: &View, indices: &Indices) -> Result<View, Error> {
    let width = table.shape().get(1).copied().unwrap_or(0);
    shape("rows", "table", &[indices.rows, width], table.shape())?;
    device.facts().check("rows", "table", table.dtype())?;
    let (elem, store) = table.stored(device);
    let out = View::empty(device, &[indices.count, width], table.written(device));
    if !out.is_empty() {
        launch!(
            "units beyond the last element return, and indices are below the number of rows",
            rows_kernel on device,
            elementwise(device, out.len()),
            CubeDim::new_1d(UNITS),
            buffer(device, table),
            words(&indices.words),
            buffer(device, &out),
            width as u32,
            store,
            elem,
            out.stored(device).0,
        );
    }
    narrowed(device, out, table.dtype())
}

/// The gradient of the table in f32, given that of the rows: `[R, C]` → `[N, C]`. Rows that are read several times add up
/// in their order.
pub fn backward(device: &Device, d: &View, indices: &Indices) -> Result<View, Error> {
    let width = d.shape().get(1).copied().unwrap_or(0);
    shape("rows", "d rows", &[indices.count, width], d.shape())?;
    let (elem, store) = d.stored(device);
    let table = View::empty(device, &[indices.rows, width], DType::F32);
    if !table.is_empty() {
        launch!(
            "units beyond the last element return, and places are below the number of indices",
            sum_kernel on device,
            elementwise(device, table.len()),
            CubeDim::new_1d(UNITS),
            buffer(device, d),
            words(&indices.places),
            buffer(device, &table),
            width as u32,
            indices.rows as u32,
            store,
            elem,
        );
    }
    Ok(table)
}

#[cube(launch_unchecked, create_dummy_kernel)]
fn rows_kernel<E: Numeric, O: Numeric>(
    table: &[E],
    indices: &[u32],
    out: &mut [O],
    width: u32,
    #[comptime] store: Store,
    #[define(E)] _elem: ElemType,
    #[define(O)] _out: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < out.len() {
        let row = indices[at / width as usize] as usize;
        out[at] = O::cast_from(read::<E>(table, row * width as usize + at % width as usize, store));
    }
}

#[cube(launch_unchecked, create_dummy_kernel)]
fn sum_kernel<E: Numeric>(
    d: &[E],
    places: &[u32],
    table: &mut [f32],
    width: u32,
    rows: u32,
    #[comptime] store: Store,
    #[define(E)] _elem: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < table.len() {
        let row = at / width as usize;
        let mut sum = 0.0f32;
        for n in places[row]..places[row + 1] {
            let place = places[rows as usize + 1 + n as usize] as usize;
            sum += read::<E>(d, place * width as usize + at % width as usize, store);
        }
        table[at] = sum;
    }
}
