//! One decoding step.

use longreach_simd::Cx;

use super::{Inputs, OP, chunk};
use crate::softmax::Output;
use crate::{Error, error};

/// One query of each sequence, `q: [B, 1, H, D]`, over the cached keys and its own.
pub fn step(x: &Inputs<'_>, cx: &Cx) -> Result<Output, Error> {
    let (b, t, h, d) = x.q.dim();
    error::shape(OP, "q", &[b, 1, h, d], &[b, t, h, d])?;
    chunk(x, cx)
}
