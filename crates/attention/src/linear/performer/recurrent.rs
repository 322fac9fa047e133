//! The recurrent form: features, then the scan with scalar gates.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayViewMut4};

use super::Inputs;
use crate::{Error, Form};

/// Returns the outputs, `[B, T, H, V]`, of whole sequences or segments of them. `state` is updated in place.
pub fn recurrent(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    x.check(state.shape())?;
    let features = [&x.apply(x.q, cx), &x.apply(x.k, cx)];
    x.call().forward(features, x.v, Form::Recurrent, state, cx)
}
