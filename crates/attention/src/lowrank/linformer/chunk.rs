//! Projects keys and values along the sequence, then runs dense attention over the result.

use longreach_simd::Cx;
use longreach_simd::product::{Accumulate, Matrix, Sizes, matmul};
use ndarray::{Array4, ArrayView2, ArrayView4};

use super::{ALL, Inputs, attention, like};
use crate::softmax::{self, Output};
use crate::{Error, sequences};

/// Attention of all queries. Errors on wrong shapes.
pub fn chunk(x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error> {
    x.check()?;
    let [k, v] = projected(x, cx);
    softmax::chunk(&attention(x, &k, &v), &ALL, cx).map_err(|e| e.of(super::OP))
}

/// The projected keys and values, `[B, R, G, …]`.
pub(super) fn projected(x: &Inputs<'_>, cx: &Cx) -> [Array4<f32>; 2] {
    [project(x.k, x.e, cx), project(x.v, x.f.unwrap_or(x.e), cx)]
}

/// `[B, S, G, D]` to `[B, R, G, D]`.
fn project(x: ArrayView4<'_, f32>, by: ArrayView2<'_, f32>, cx: &Cx) -> Array4<f32> {
    let ((_, tokens, g, d), rank) = (x.dim(), by.dim().1);
    let mut out = like(x, rank);
    let (rows, by) = (sequences::contiguous(&x), sequences::contiguous(&by));
    let width = g * d;
    let parts = out.as_slice_mut().unwrap_or_default().chunks_mut((rank * width).max(1));
    for (out, rows) in parts.zip(rows.chunks((tokens * width).max(1))) {
        let sizes = Sizes { m: rank, n: width, k: tokens };
        matmul(cx, sizes, Matrix::rows(&by, rank).t(), Matrix::rows(rows, width), Accumulate::Replace, out, width);
    }
    out
}
