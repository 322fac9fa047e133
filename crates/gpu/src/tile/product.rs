//! Products of tiles in shared memory, in f32. Unit `(y, x)` of `by × bx` owns rows `y + by · i` and columns `x + bx · j`
//! of the result, in registers.
#![allow(missing_docs, reason = "what `#[cube]` writes has no docs")]

use cubecl::prelude::*;

/// A product `C[r][c] += Σ_n A[r][n] B[n][c]` of tiles, whose strides say which of them is transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// Rows of units.
    pub by: usize,
    /// Columns of units.
    pub bx: usize,
    /// Rows of the result that a unit owns.
    pub rows: usize,
    /// Columns of the result that a unit owns.
    pub columns: usize,
    /// Terms of a sum.
    pub terms: usize,
    /// Elements of `A` between rows and between terms.
    pub a: (usize, usize),
    /// Elements of `B` between terms and between columns.
    pub b: (usize, usize),
}

/// Adds a product to the registers `to[at ..]`, `[rows, columns]`.
#[cube]
pub fn product(a: &Shared<[f32]>, b: &Shared<[f32]>, to: &mut Array<f32>, at: usize, #[comptime] of: Product) {
    let y = UNIT_POS as usize / comptime!(of.bx);
    let x = UNIT_POS as usize % comptime!(of.bx);
    let mut right = Array::<f32>::new(of.columns);
    for n in 0..comptime!(of.terms) {
        #[unroll]
        for j in 0..comptime!(of.columns) {
            right[j] = b[n * comptime!(of.b.0) + (x + j * comptime!(of.bx)) * comptime!(of.b.1)];
        }
        #[unroll]
        for i in 0..comptime!(of.rows) {
            let left = a[(y + i * comptime!(of.by)) * comptime!(of.a.0) + n * comptime!(of.a.1)];
            #[unroll]
            for j in 0..comptime!(of.columns) {
                to[at + i * comptime!(of.columns) + j] += left * right[j];
            }
        }
    }
}
