//! All groups at once; the convolution is one matrix product.

use longreach_simd::Cx;
use longreach_simd::product::{Accumulate, Matrix, Sizes, matmul};
use ndarray::{Array2, Array3, ArrayView3, Axis, s};

use super::{Compression, Inputs, most_used};
use crate::Error;

/// The compressed memories, `[B, ⌈N / c⌉, C]`. Errors on wrong shapes.
pub fn chunk(x: &Inputs<'_>, cx: &Cx) -> Result<Array3<f32>, Error> {
    x.check()?;
    let ((batch, _, c), groups) = (x.x.dim(), x.groups());
    let mut out = Array3::zeros((batch, groups.len(), c));
    match &x.by {
        Compression::Conv { w, b, dilation } => {
            let (rows, w) = (windows(x, w.dim().2, *dilation), filters(w));
            let width = rows.dim().1;
            for mut row in out.rows_mut() {
                row.assign(b);
            }
            let (rows, w) = (rows.as_slice().unwrap_or_default(), w.as_slice().unwrap_or_default());
            let sizes = Sizes { m: batch * groups.len(), n: c, k: width };
            let to = out.as_slice_mut().unwrap_or_default();
            matmul(cx, sizes, Matrix::rows(rows, width), Matrix::rows(w, width).t(), Accumulate::Add, to, c);
        }
        Compression::Used(_) => {
            for (b, kept) in kept(x, groups.len()).into_iter().enumerate() {
                out.index_axis_mut(Axis(0), b).assign(&x.x.index_axis(Axis(0), b).select(Axis(0), &kept));
            }
        }
        Compression::Mean | Compression::Max => {
            let most = matches!(x.by, Compression::Max);
            for (b, (n, group)) in (0..batch).flat_map(|b| groups.iter().enumerate().map(move |group| (b, group))) {
                let mut out = out.slice_mut(s![b, n, ..]);
                for (i, row) in x.x.slice(s![b, group.clone(), ..]).rows().into_iter().enumerate() {
                    out.zip_mut_with(&row, |out, x| *out = if i > 0 && most { out.max(*x) } else { *out + x });
                }
                if !most {
                    out /= group.len() as f32;
                }
            }
        }
    }
    Ok(out)
}

/// The receptive field of each group's filter, tap by tap (im2col): `[B groups, taps C]`, zero before the first token.
pub(super) fn windows(x: &Inputs<'_>, taps: usize, dilation: usize) -> Array2<f32> {
    let ((batch, _, c), groups) = (x.x.dim(), x.groups());
    let mut rows = Array2::zeros((batch * groups.len(), taps * c));
    for (r, (b, group)) in (0..batch).flat_map(|b| groups.iter().map(move |group| (b, group))).enumerate() {
        for i in 0..taps {
            if let Some(t) = (group.end - 1).checked_sub((taps - 1 - i).saturating_mul(dilation)) {
                rows.slice_mut(s![r, i * c..(i + 1) * c]).assign(&x.x.slice(s![b, t, ..]));
            }
        }
    }
    rows
}

/// Reorders `[C, C, taps]` to `[C, taps C]`.
pub(super) fn filters(w: &ArrayView3<'_, f32>) -> Array2<f32> {
    let (out, width, taps) = w.dim();
    Array2::from_shape_fn((out, taps * width), |(o, i)| w[[o, i % width, i / width]])
}

/// The tokens that are kept.
pub(super) fn kept(x: &Inputs<'_>, count: usize) -> Vec<Vec<usize>> {
    let Compression::Used(p) = &x.by else { return Vec::new() };
    let p = p.mapv(f64::from);
    let weights = p.mean_axis(Axis(1)).and_then(|p| p.mean_axis(Axis(1)));
    most_used(&weights.unwrap_or_default(), count)
}
