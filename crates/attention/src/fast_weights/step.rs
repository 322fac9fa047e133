//! One token of each sequence.

use longreach_simd::Cx;
use ndarray::ArrayViewMut4;

use super::forward::forward;
use super::token::{is_one_token, one_token};
use super::{Dims, Inputs, Tokens};
use crate::{Error, error};

/// One token of each sequence, into `out`, contiguous `[B, H, V]`. Allocates nothing, for decoding.
pub(super) fn one_token_into(
    x: &Inputs<'_>,
    mut state: ArrayViewMut4<'_, f32>,
    out: &mut [f32],
    cx: &Cx,
) -> Result<(), Error> {
    let input = Tokens::of(x, state.shape(), cx)?;
    let Dims { b, t, g, h, k, v } = input.dims;
    error::shape(x.op, "q", &[b, 1, g, k], &[b, t, g, k])?;
    error::shape(x.op, "out", &[b * h * v], &[out.len()])?;
    if !is_one_token(&input) {
        // Sequences without a token, or empty states.
        out.copy_from_slice(forward(x, state, cx)?.as_slice().unwrap_or_default());
        return Ok(());
    }
    let state = state.as_slice_mut().ok_or(Error::Layout { op: x.op, input: "state" })?;
    one_token(&input, state, out, cx);
    Ok(())
}
