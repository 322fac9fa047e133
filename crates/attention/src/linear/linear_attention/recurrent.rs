//! The recurrent form of the scan with scalar gates, which computes features as it gathers rows.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayViewMut4};

use super::Inputs;
use crate::{Error, Form};

/// Returns the outputs, `[B, T, H, V]`, of whole sequences or segments of them. `state` is updated in place.
pub fn recurrent(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    x.check(state.shape())?;
    // The fused form requires `V > 0`.
    if x.causal && !x.map.squares() && x.v.dim().3 > 0 {
        return x.call().fused([x.q, x.k], x.map, x.v, state, cx);
    }
    let features = [&x.map.apply(x.q, cx), &x.map.apply(x.k, cx)];
    x.call().forward(features, x.v, Form::Recurrent, state, cx)
}
