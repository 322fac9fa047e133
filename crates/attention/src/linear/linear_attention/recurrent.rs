//! Token by token with the state in registers: the family's scan, which makes features where it reads.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayViewMut4};

use super::Inputs;
use crate::{Error, Form};

/// The outputs, `[B, T, H, V]`, of whole sequences or parts of them. `state` is read and left for the next tokens.
pub fn recurrent(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    x.check(state.shape())?;
    if x.causal && !x.map.squares() {
        return x.call().fused([x.q, x.k], x.map, x.v, state, cx);
    }
    let features = [&x.map.apply(x.q, cx), &x.map.apply(x.k, cx)];
    x.call().forward(features, x.v, Form::Recurrent, state, cx)
}
