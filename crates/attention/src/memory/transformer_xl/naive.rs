//! The definition.

use ndarray::{Array3, Array4, s};

use super::Inputs;
use crate::Error;

/// Query by query as the equation reads, in f64; and the log-sum-exp, `[B, T, H]`.
pub fn naive(x: &Inputs<'_, f64>) -> Result<(Array4<f64>, Array3<f64>), Error> {
    let memory = x.check()?;
    let ((b, t, h, _), e) = (x.q.dim(), x.v.dim().3);
    let (mut out, mut lse) = (Array4::zeros((b, t, h, e)), Array3::zeros((b, t, h)));
    for ((b, i, h), lse) in lse.indexed_iter_mut() {
        let q = x.q.slice(s![b, i, h, ..]);
        let with = |bias: &Option<ndarray::ArrayView2<'_, f64>>| match bias {
            Some(bias) => &q + &bias.row(h),
            None => q.to_owned(),
        };
        let (by_content, by_position) = (with(&x.u), with(&x.w));
        let last = i + memory;
        let first = x.left.map_or(0, |left| last.saturating_sub(left));
        let score = |j: usize| {
            x.scale * (by_content.dot(&x.k.slice(s![b, j, h, ..])) + by_position.dot(&x.r.slice(s![last - j, h, ..])))
        };
        let scores: Vec<f64> = (first..=last).map(score).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        *lse = top + scores.iter().map(|y| (y - top).exp()).sum::<f64>().ln();
        for (j, y) in (first..=last).zip(&scores) {
            out.slice_mut(s![b, i, h, ..]).scaled_add((y - *lse).exp(), &x.v.slice(s![b, j, h, ..]));
        }
    }
    Ok((out, lse))
}
