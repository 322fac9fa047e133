//! The definition.

use ndarray::{Array3, s};

use super::Inputs;
use crate::Error;

/// As the equation reads, in f64.
pub fn naive(x: &Inputs<'_, f64>) -> Result<Array3<f64>, Error> {
    x.check()?;
    let ((b, summaries, d), n) = (x.s.dim(), x.m.dim().1);
    let by = (x.wq.dim().1 as f64).powf(-0.5);
    let mut out = Array3::zeros((b, summaries, d));
    for (b, i) in (0..b).flat_map(|b| (0..summaries).map(move |i| (b, i))) {
        let query = x.wq.t().dot(&x.s.slice(s![b, i, ..]));
        let scores: Vec<f64> = (0..n).map(|j| by * query.dot(&x.wk.t().dot(&x.m.slice(s![b, j, ..])))).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|y| (y - top).exp()).sum();
        for (j, y) in scores.iter().enumerate() {
            out.slice_mut(s![b, i, ..]).scaled_add((y - top).exp() / total, &x.m.slice(s![b, j, ..]));
        }
    }
    Ok(out)
}
