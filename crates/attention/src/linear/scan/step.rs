//! One token, for decoding.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayViewMut4};

use super::token::{is_one_token, one_token};
use super::{Inputs, OP, Tokens, recurrent};
use crate::{Error, error};

/// One token of each sequence, `q: [S, 1, G, K]`: the recurrent form with `T = 1`, in one pass over the state.
pub fn step(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    let mut out = Array4::zeros(x.v.dim());
    step_into(x, state, out.as_slice_mut().unwrap_or_default(), cx)?;
    Ok(out)
}

/// As [`step`], into `out`, contiguous `[S, 1, H, V]`. Allocates nothing.
pub fn step_into(x: &Inputs<'_>, mut state: ArrayViewMut4<'_, f32>, out: &mut [f32], cx: &Cx) -> Result<(), Error> {
    let (b, t, g, k) = x.q.dim();
    error::shape(OP, "q", &[b, 1, g, k], &[b, t, g, k])?;
    x.check(state.shape())?;
    error::shape(OP, "out", &[x.v.len()], &[out.len()])?;
    let input = Tokens::of(x)?;
    if !is_one_token(&input) {
        // Sequences without a token, or empty states.
        return recurrent::recurrent_into(x, state, out, cx);
    }
    let state = state.as_slice_mut().ok_or(Error::Layout { op: OP, input: "state" })?;
    one_token(&input, state, out, cx);
    Ok(())
}
