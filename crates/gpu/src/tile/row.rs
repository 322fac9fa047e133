//! Sums and maxima over a cube, in shared memory and in the order of the units: any size of a plane gives the same bits.
#![allow(missing_docs, reason = "what `#[cube]` writes has no docs")]

use cubecl::prelude::*;

/// Units of a cube that has a row.
pub const UNITS: u32 = 64;

/// The sum of all units' values, for all units. `sums` has a number for each of [`UNITS`].
#[cube]
pub fn total(value: f32, sums: &mut Shared<[f32]>) -> f32 {
    sync_cube();
    sums[UNIT_POS as usize] = value;
    sync_cube();
    let mut sum = 0.0f32;
    for n in 0..comptime!(UNITS as usize) {
        sum += sums[n];
    }
    sum
}

/// The maximum of all units' values, for all units.
#[cube]
pub fn highest(value: f32, sums: &mut Shared<[f32]>) -> f32 {
    sync_cube();
    sums[UNIT_POS as usize] = value;
    sync_cube();
    let mut most = sums[0];
    for n in 1..comptime!(UNITS as usize) {
        most = select(sums[n] > most, sums[n], most);
    }
    most
}
