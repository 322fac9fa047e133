//! One token, for decoding.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayViewMut4};

use super::map::Apply;
use super::{Inputs, recurrent};
use crate::Error;

/// One token of each sequence, `q: [S, 1, G, K]`. Causal only.
pub fn step(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    let mut out = Array4::zeros(x.v.dim());
    step_into(x, state, out.as_slice_mut().unwrap_or_default(), cx)?;
    Ok(out)
}

/// As [`step`], into `out`, contiguous `[S, 1, H, V]`. Allocates nothing.
pub fn step_into(x: &Inputs<'_>, mut state: ArrayViewMut4<'_, f32>, out: &mut [f32], cx: &Cx) -> Result<(), Error> {
    x.check(state.shape())?;
    let features = x.map.features(x.q.dim().3);
    if !x.call().step([x.q, x.k], (&Apply(x.map), features), x.v, state.view_mut(), out, cx)? {
        out.copy_from_slice(recurrent(x, state, cx)?.as_slice().unwrap_or_default());
    }
    Ok(())
}
