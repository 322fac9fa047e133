//! The chunked form of the scan with scalar gates.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayViewMut4};

use super::{Inputs, OP, scan};
use crate::Error;

/// Returns the outputs, `[B, T, H, V]`, of whole sequences or segments of them. `state` `[S, H, K, V]` is updated in
/// place.
pub fn chunk(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    scan::chunk(&x.scan()?, state, cx).map_err(|e| e.of(OP))
}
