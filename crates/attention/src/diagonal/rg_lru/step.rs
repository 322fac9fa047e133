//! One token, for decoding.

use longreach_simd::Cx;
use ndarray::{Array3, ArrayViewMut2};

use super::{Inputs, OP, recurrent};
use crate::{Error, error};

/// One token of each sequence, `x: [S, 1, D]`.
pub fn step(x: &Inputs<'_>, state: ArrayViewMut2<'_, f32>, cx: &Cx) -> Result<Array3<f32>, Error> {
    let (b, t, d) = x.x.dim();
    error::shape(OP, "x", &[b, 1, d], &[b, t, d])?;
    recurrent(x, state, cx)
}
