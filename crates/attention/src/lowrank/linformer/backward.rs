//! The backward pass: that of dense attention, then through the projections.

use longreach_simd::Cx;
use longreach_simd::product::{Accumulate, Matrix, Sizes, matmul};
use ndarray::{Array2, Array4, ArrayView2, ArrayView4};

use super::chunk::projected;
use super::{ALL, Inputs, OP, attention, like};
use crate::softmax::{self, Cotangent, OutputView};
use crate::{Error, sequences};

/// The gradients with respect to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, H, D]`
    pub q: Array4<f32>,
    /// `[B, S, G, D]`
    pub k: Array4<f32>,
    /// `[B, S, G, E]`
    pub v: Array4<f32>,
    /// `[L, R]`; includes the gradient from the values if they share the projection
    pub e: Array2<f32>,
    /// `[L, R]`, if values have their own projection
    pub f: Option<Array2<f32>>,
}

/// The gradients, given those of the outputs, from what [`chunk`](super::chunk()) returned. Errors on wrong shapes.
pub fn backward(x: &Inputs<'_>, output: OutputView<'_>, d: &Cotangent<'_>, cx: &Cx) -> Result<Gradient, Error> {
    x.check()?;
    let [k, v] = projected(x, cx);
    let got = softmax::backward(&attention(x, &k, &v), &ALL, output, d, cx).map_err(|e| e.of(OP))?;
    let mut de = Array2::zeros(x.e.dim());
    let dk = project_backward(x.k, x.e, &got.k, &mut de, cx);
    let mut df = x.f.map(|f| Array2::zeros(f.dim()));
    let dv = project_backward(x.v, x.f.unwrap_or(x.e), &got.v, df.as_mut().unwrap_or(&mut de), cx);
    Ok(Gradient { q: got.q, k: dk, v: dv, e: de, f: df })
}

/// The gradients of a projection's input and of its matrix.
fn project_backward(
    x: ArrayView4<'_, f32>,
    by: ArrayView2<'_, f32>,
    d: &Array4<f32>,
    d_by: &mut Array2<f32>,
    cx: &Cx,
) -> Array4<f32> {
    let ((_, tokens, g, width), rank) = (x.dim(), by.dim().1);
    let width = g * width;
    let mut out = like(x, tokens);
    let (rows, by, d) = (sequences::contiguous(&x), sequences::contiguous(&by), d.as_standard_layout());
    let d = d.as_slice().unwrap_or_default().chunks((rank * width).max(1));
    let parts = out.as_slice_mut().unwrap_or_default().chunks_mut((tokens * width).max(1));
    for ((out, rows), d) in parts.zip(rows.chunks((tokens * width).max(1))).zip(d) {
        let (by, d, rows) = (Matrix::rows(&by, rank), Matrix::rows(d, width), Matrix::rows(rows, width));
        matmul(cx, Sizes { m: tokens, n: width, k: rank }, by, d, Accumulate::Replace, out, width);
        let to = d_by.as_slice_mut().unwrap_or_default();
        matmul(cx, Sizes { m: tokens, n: rank, k: width }, rows, d.t(), Accumulate::Add, to, rank);
    }
    out
}
