//! Processing tokens in blocks of rows, so that intermediate results between two linear maps stay small.

use std::ops::Range;

use burn::tensor::Tensor;
use longreach_burn as ops;

/// Rows per block.
const ROWS: usize = 1024;

/// Replaces each block of rows `[1, n, d]` of `x: [B, T, d]` by `f(block, range)`. Works in place if `x` is not
/// shared, and in a single call if gradients are recorded.
pub(crate) fn by_rows(x: Tensor<3>, f: impl Fn(Tensor<3>, Range<usize>) -> Tensor<3>) -> Tensor<3> {
    let [b, t, d] = x.dims();
    let n = b * t;
    if n <= ROWS || x.device().is_autodiff() {
        return f(x.reshape([1, n, d]), 0..n).reshape([b, t, d]);
    }
    let mut x = x.reshape([1, n, 1, d]);
    for from in (0..n).step_by(ROWS) {
        let rows = from..(from + ROWS).min(n);
        let part = x.clone().narrow(1, from, rows.len()).reshape([1, rows.len(), d]);
        let y = f(part, rows.clone());
        x = ops::put_rows(x, y.reshape([1, rows.len(), 1, d]), from);
    }
    x.reshape([b, t, d])
}

/// The rows `rows` of `[B, T, d]`, counted over all sequences.
pub(crate) fn rows_of(x: &Tensor<3>, rows: Range<usize>) -> Tensor<3> {
    let [b, t, d] = x.dims();
    x.clone().reshape([1, b * t, d]).narrow(1, rows.start, rows.len())
}
