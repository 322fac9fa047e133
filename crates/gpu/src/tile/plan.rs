//! Tile sizes, from a table: the same device and shapes always give the same plan, and so the same bits.

use crate::error::{Error, most};

/// What a plan must fit into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of shared memory of a cube.
    pub shared: usize,
    /// Units of a cube.
    pub units: usize,
}

impl Limits {
    /// The smallest limits that WebGPU permits.
    pub const LEAST: Self = Self { shared: 16 << 10, units: 256 };
}

/// How a cube divides a pair of blocks. A cube is `by × bx` units; in a product of tiles, unit `(y, x)` owns the rows
/// `y, y + by, …` and the columns `x, x + bx, …` of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Queries, or tokens of a chunk, a tile.
    pub rows: usize,
    /// Keys a tile, a multiple of 32.
    pub keys: usize,
    /// Channels in shared memory at a time; wider heads are read in slices.
    pub slice: usize,
    /// Rows of units.
    pub by: usize,
    /// Columns of units.
    pub bx: usize,
}

impl Plan {
    /// The largest width of a head.
    pub const WIDTH: usize = 256;

    /// The plan of softmax attention for heads of these widths. An error for wider heads than [`Plan::WIDTH`].
    pub fn softmax(op: &'static str, limits: &Limits, width: usize, value_width: usize) -> Result<Self, Error> {
        most(op, "the width of a head", Self::WIDTH, width.max(value_width))?;
        let side = if width.max(value_width) > 64 { 16 } else { 8 };
        let plan = |slice| Self { rows: 32, keys: 32, slice, by: side, bx: side };
        let most = width.max(value_width).next_multiple_of(side);
        let fits = [64, 48, 32, 16].into_iter().filter(|slice| *slice <= most).map(plan);
        let fits = fits
            .filter(|plan| plan.shared() <= limits.shared && plan.units() <= limits.units)
            .max_by_key(|plan| plan.slice);
        Ok(fits.unwrap_or(plan(16)))
    }

    /// Units of a cube.
    pub fn units(&self) -> usize {
        self.by * self.bx
    }

    /// Elements between rows of a slice in shared memory. One more than its width, so that units that read a column
    /// read different banks.
    pub fn slice_stride(&self) -> usize {
        self.slice + 1
    }

    /// Elements between rows of a tile of scores in shared memory.
    pub fn keys_stride(&self) -> usize {
        self.keys + 1
    }

    /// Bytes of shared memory: slices of queries and of keys, the scores and their
    /// gradients, and a number for each row and column of units.
    pub fn shared(&self) -> usize {
        4 * ((self.rows + self.keys) * self.slice_stride()
            + 2 * self.rows * self.keys_stride()
            + self.rows.max(self.keys) * self.bx)
    }

    /// The slices that cover `width` channels.
    pub fn slices(&self, width: usize) -> usize {
        width.div_ceil(self.slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_fits_its_device() {
        for shared in [16 << 10, 32 << 10, 48 << 10, 227 << 10] {
            let limits = Limits { shared, units: 256 };
            for width in [1, 4, 16, 40, 64, 80, 128, 256] {
                let plan = Plan::softmax("softmax", &limits, width, 64).expect("a width within the bound");
                assert!(plan.shared() <= shared && plan.units() <= limits.units, "{plan:?} in {shared}");
                let whole = [(plan.slice, plan.bx), (plan.keys, plan.bx), (plan.rows, plan.by)];
                assert!(whole.iter().all(|(size, part)| size.is_multiple_of(*part)), "{plan:?}");
            }
        }
        let wide = Plan::softmax("softmax", &Limits::LEAST, 257, 64).expect_err("a width over the bound");
        assert_eq!(
            wide.to_string(),
            "softmax: the width of a head is 257, and the GPU kernels take at most 256; the CPU kernels have no such bound"
        );
    }
}
