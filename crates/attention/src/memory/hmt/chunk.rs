//! All summaries of all sequences at once; there are few.

use longreach_simd::Cx;
use ndarray::{Array2, Array3, Axis};

use super::{Inputs, One, like};
use crate::Error;

/// The recalled memories, `[B, Q, D]`. Errors on wrong shapes.
pub fn chunk(x: &Inputs<'_>, cx: &Cx) -> Result<Array3<f32>, Error> {
    x.check()?;
    let mut out = like(x);
    cx.team.for_each(out.axis_iter_mut(Axis(0)).enumerate(), |(b, mut out)| {
        let product: Array2<f32> = One::of(x, b).weights.dot(&x.m.index_axis(Axis(0), b));
        out.assign(&product);
    });
    Ok(out)
}
