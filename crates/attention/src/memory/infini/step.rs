//! One decoding step.

use longreach_simd::Cx;
use ndarray::Array4;

use super::{Inputs, OP, State, chunk};
use crate::{Error, error};

/// One token of each sequence, `q: [B, 1, H, K]`.
pub fn step(x: &Inputs<'_>, state: &mut State, cx: &Cx) -> Result<Array4<f32>, Error> {
    let (b, t, h, k) = x.q.dim();
    error::shape(OP, "q", &[b, 1, h, k], &[b, t, h, k])?;
    chunk(x, state, cx)
}
