//! One token, for decoding.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayViewMut4};

use super::{Gates, Inputs, OP, scan};
use crate::Error;

/// One token of each sequence, `x: [S, 1, H, P]`.
pub fn step(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    scan::step(&Gates::of(x, cx)?.scan(x), state, cx).map_err(|e| e.of(OP))
}
