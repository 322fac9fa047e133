//! The recurrent form: features, then the scan with scalar gates.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayViewMut4};

use super::Inputs;
use super::map::AngleFeatures;
use crate::{Error, Form};

/// Returns the outputs, `[B, T, H, V]`, of whole sequences or segments of them. `state` is updated in place.
pub fn recurrent(x: &Inputs<'_>, mut state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    x.check(state.shape())?;
    let features = (&AngleFeatures(x), 2 * x.q.dim().3);
    if let Some(out) = x.call().one_token([x.q, x.k], features, x.v, state.view_mut(), cx)? {
        return Ok(out);
    }
    let features = [&x.apply(x.q, cx), &x.apply(x.k, cx)];
    x.call().forward(features, x.v, Form::Recurrent, state, cx)
}
