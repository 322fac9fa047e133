//! The gradient: the inverse rotation.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayView4};

use super::Angles;
use super::chunk::rotate;
use crate::Error;

/// The gradient to `x`, given that of the output, `dy: [B, T, H, D]`.
pub fn backward(dy: ArrayView4<'_, f32>, angles: &Angles, cx: &Cx) -> Result<Array4<f32>, Error> {
    rotate(dy, angles, -1.0, cx)
}
