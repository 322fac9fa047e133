//! One token, for decoding.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayViewMut4};

use super::{Inputs, recurrent};
use crate::Error;
use crate::linear::linear_attention::Map;

/// One token of each sequence, `q: [S, 1, G, K]`. Causal only.
pub fn step(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    let mut out = Array4::zeros(x.v.dim());
    step_into(x, state, out.as_slice_mut().unwrap_or_default(), cx)?;
    Ok(out)
}

/// As [`step`], into `out`, contiguous `[S, 1, H, V]`. The features are arrays, the state stays where it is.
pub fn step_into(x: &Inputs<'_>, mut state: ArrayViewMut4<'_, f32>, out: &mut [f32], cx: &Cx) -> Result<(), Error> {
    x.check(state.shape())?;
    let (q, k) = (x.apply(x.q, cx), x.apply(x.k, cx));
    let done = x.call().step([q.view(), k.view()], Map::Identity, x.v, state.view_mut(), out, cx)?;
    if !done {
        out.copy_from_slice(recurrent(x, state, cx)?.as_slice().unwrap_or_default());
    }
    Ok(())
}
