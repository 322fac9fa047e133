//! Numbers from device memory to f32, and tiles of them to shared memory.
#![allow(missing_docs, reason = "what `#[cube]` writes has no docs")]

use cubecl::prelude::*;

/// How a buffer stores its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Store {
    /// In a type that the device has.
    Native,
    /// Two bf16 in a u32, the first in the lower half: for devices without bf16.
    Pairs,
}

/// The element `at` of a buffer, as f32.
#[cube]
pub fn read<E: Numeric>(x: &[E], at: usize, #[comptime] store: Store) -> f32 {
    if comptime!(store == Store::Native) {
        f32::cast_from(x[at])
    } else {
        let word = u32::cast_from(x[at / 2]);
        // A bf16 is the upper half of an f32.
        let bits = select(at % 2 == 0, word << 16u32, word & 0xffff_0000u32);
        f32::reinterpret(bits)
    }
}

/// The bits of the bf16 nearest to `x`, ties to even, in the lower half.
#[cube]
pub fn narrowed(x: f32) -> u32 {
    let bits = u32::reinterpret(x);
    let rounded = (bits + 0x7fffu32 + ((bits >> 16u32) & 1u32)) >> 16u32;
    // Rounding would carry the mantissa of some NaNs into infinity.
    let nan = (bits & 0x7fff_ffffu32) > 0x7f80_0000u32;
    select(nan, (bits >> 16u32) | 0x40u32, rounded)
}

/// Where the rows of a tile lie. Row `r` starts at `base + (r / stack) · stride + (r % stack) · width`: `stack` heads of
/// a token are rows of one tile where tokens are few.
#[derive(CubeType, Clone, Copy)]
pub struct Rows {
    /// The first element of the first row.
    pub base: usize,
    /// Elements between tokens.
    pub stride: usize,
    /// How many rows there are; the others are zero.
    pub count: usize,
}

/// The shape of a tile in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Its rows.
    pub rows: usize,
    /// Its columns.
    pub columns: usize,
    /// Elements between its rows.
    pub stride: usize,
    /// The width of a row in device memory.
    pub width: usize,
    /// Heads of a token that are rows.
    pub stack: usize,
    /// Units of the cube.
    pub units: usize,
    /// How the buffer stores its numbers.
    pub store: Store,
}

/// Copies the columns `first ..` of some rows to a tile, zeros where there are none. The caller synchronises.
#[cube]
pub fn load<E: Numeric>(x: &[E], to: &mut Shared<[f32]>, rows: &Rows, first: usize, #[comptime] tile: Tile) {
    let total = comptime!(tile.rows * tile.columns);
    let steps = comptime!(total.div_ceil(tile.units));
    for step in 0..steps {
        let at = step * comptime!(tile.units) + UNIT_POS as usize;
        let row = at / comptime!(tile.columns);
        let column = at % comptime!(tile.columns);
        if at < total {
            let mut value = 0.0f32;
            if row < rows.count && first + column < comptime!(tile.width) {
                let base = rows.base
                    + (row / comptime!(tile.stack)) * rows.stride
                    + (row % comptime!(tile.stack)) * comptime!(tile.width);
                value = read::<E>(x, base + first + column, tile.store);
            }
            to[row * comptime!(tile.stride) + column] = value;
        }
    }
}
