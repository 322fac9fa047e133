//! One token, for decoding.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayViewMut4};

use super::{Inputs, OP, scan};
use crate::Error;

/// One token of each sequence, `q: [S, 1, G, K]`.
pub fn step(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    scan::step(&x.scan()?, state, cx).map_err(|e| e.of(OP))
}

/// As [`step`], into `out`, contiguous `[S, 1, H, V]`. Allocates nothing.
pub fn step_into(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, out: &mut [f32], cx: &Cx) -> Result<(), Error> {
    scan::step_into(&x.scan()?, state, out, cx).map_err(|e| e.of(OP))
}
