//! One decoding step: the same sum, with the state shifted in place.

use longreach_simd::Cx;
use ndarray::{Array3, ArrayViewMut3};

use super::{Inputs, OP, chunk};
use crate::{Error, error};

/// One token of each sequence, `x: [S, 1, D]`: the chunk form with `T = 1`. `state` is updated in place. Errors on
/// wrong shapes.
pub fn step(x: &Inputs<'_>, state: ArrayViewMut3<'_, f32>, cx: &Cx) -> Result<Array3<f32>, Error> {
    let (b, t, d) = x.x.dim();
    error::shape(OP, "x", &[b, 1, d], &[b, t, d])?;
    chunk(x, state, cx)
}
