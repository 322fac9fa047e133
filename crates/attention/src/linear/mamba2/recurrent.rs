//! The recurrent form of the scan with scalar gates.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayViewMut4};

use super::{Gates, Inputs, OP, scan};
use crate::Error;

/// The scan of whole sequences or segments of them. `state` `[S, H, N, P]` is updated in place.
pub fn recurrent(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    scan::recurrent(&Gates::of(x, cx)?.scan(x), state, cx).map_err(|e| e.of(OP))
}

/// As [`recurrent`], into `out`, contiguous `[B, T, H, P]`.
pub fn recurrent_into(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, out: &mut [f32], cx: &Cx) -> Result<(), Error> {
    scan::recurrent_into(&Gates::of(x, cx)?.scan(x), state, out, cx).map_err(|e| e.of(OP))
}
