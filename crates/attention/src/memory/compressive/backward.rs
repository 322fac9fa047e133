//! The backward pass.

use longreach_simd::Cx;
use longreach_simd::product::{Accumulate, Matrix, Sizes, matmul};
use ndarray::{Array1, Array2, Array3, ArrayView3, Axis, s};

use super::chunk::{filters, kept, windows};
use super::{Compression, Inputs, OP};
use crate::{Error, error};

/// The gradients with respect to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, N, C]`
    pub x: Array3<f32>,
    /// `[C, C, taps]`, for a convolution
    pub w: Option<Array3<f32>>,
    /// `[C]`, for a convolution
    pub b: Option<Array1<f32>>,
}

/// The gradients, given that of the compressed memories, `d_o: [B, ⌈N / c⌉, C]`. Errors on wrong shapes.
pub fn backward(x: &Inputs<'_>, d_o: ArrayView3<'_, f32>, cx: &Cx) -> Result<Gradient, Error> {
    x.check()?;
    let ((batch, _, c), groups) = (x.x.dim(), x.groups());
    error::shape(OP, "do", &[batch, groups.len(), c], d_o.shape())?;
    let mut to = Gradient { x: Array3::zeros(x.x.dim()), w: None, b: None };
    match &x.by {
        Compression::Conv { w, dilation, .. } => {
            let taps = w.dim().2;
            let (rows, by, d) = (windows(x, taps, *dilation), filters(w), d_o.as_standard_layout());
            let (count, width) = rows.dim();
            let (mut d_rows, mut d_by) = (Array2::<f32>::zeros(rows.dim()), Array2::<f32>::zeros(by.dim()));
            let [rows, by] = [&rows, &by].map(|x| x.as_slice().unwrap_or_default());
            let d = Matrix::rows(d.as_slice().unwrap_or_default(), c);
            let to_rows = Sizes { m: count, n: width, k: c };
            let into = d_rows.as_slice_mut().unwrap_or_default();
            matmul(cx, to_rows, d, Matrix::rows(by, width), Accumulate::Replace, into, width);
            let to_filters = Sizes { m: c, n: width, k: count };
            let into = d_by.as_slice_mut().unwrap_or_default();
            matmul(cx, to_filters, d.t(), Matrix::rows(rows, width), Accumulate::Replace, into, width);
            for (r, (b, group)) in (0..batch).flat_map(|b| groups.iter().map(move |group| (b, group))).enumerate() {
                for i in 0..taps {
                    if let Some(t) = (group.end - 1).checked_sub((taps - 1 - i).saturating_mul(*dilation)) {
                        let mut to = to.x.slice_mut(s![b, t, ..]);
                        to += &d_rows.slice(s![r, i * c..(i + 1) * c]);
                    }
                }
            }
            to.w = Some(Array3::from_shape_fn(w.dim(), |(o, n, i)| d_by[[o, i * c + n]]));
            to.b = Some(d_o.sum_axis(Axis(0)).sum_axis(Axis(0)));
        }
        Compression::Used(_) => {
            for (b, kept) in kept(x, groups.len()).into_iter().enumerate() {
                for (n, t) in kept.into_iter().enumerate() {
                    to.x.slice_mut(s![b, t, ..]).assign(&d_o.slice(s![b, n, ..]));
                }
            }
        }
        Compression::Mean => {
            for (b, (n, group)) in (0..batch).flat_map(|b| groups.iter().enumerate().map(move |group| (b, group))) {
                for t in group.clone() {
                    to.x.slice_mut(s![b, t, ..]).assign(&(&d_o.slice(s![b, n, ..]) / group.len() as f32));
                }
            }
        }
        Compression::Max => {
            for (b, (n, group)) in (0..batch).flat_map(|b| groups.iter().enumerate().map(move |group| (b, group))) {
                for channel in 0..c {
                    let greater =
                        |most: usize, t: usize| if x.x[[b, t, channel]] > x.x[[b, most, channel]] { t } else { most };
                    let most = group.clone().fold(group.start, greater);
                    to.x[[b, most, channel]] = d_o[[b, n, channel]];
                }
            }
        }
    }
    Ok(to)
}
