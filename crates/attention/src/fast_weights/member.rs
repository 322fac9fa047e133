//! The forms of every mechanism that is one of this kernel's: a mechanism says what its inputs are to the kernel.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayView4, ArrayViewMut4};

use super::{Gradient, Inputs, forward, gradient, one_token_into};
use crate::Error;

/// The inputs of a mechanism that this kernel runs; `F` is f32, or f64 for the definition.
pub trait MatrixState<F = f32> {
    /// The inputs as those of the kernel. Errors if one that is the same for all tokens has the wrong shape.
    fn kernel(&self) -> Result<Inputs<'_, F>, Error>;
}

/// Returns the outputs, `[B, T, H, V]`, of whole sequences or segments of them. `state` `[S, H, K, V]` is updated in
/// place. Errors on wrong shapes and on gates above 0.
pub fn recurrent(x: &impl MatrixState, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    forward(&x.kernel()?, state, cx)
}

/// One token of each sequence, `q: [S, 1, G, K]`. Errors as [`recurrent`].
pub fn step(x: &impl MatrixState, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    let kernel = x.kernel()?;
    let mut out = Array4::zeros(kernel.v.dim());
    one_token_into(&kernel, state, out.as_slice_mut().unwrap_or_default(), cx)?;
    Ok(out)
}

/// As [`step()`], into `out`, contiguous `[S, 1, H, V]`. Allocates nothing.
pub fn step_into(x: &impl MatrixState, state: ArrayViewMut4<'_, f32>, out: &mut [f32], cx: &Cx) -> Result<(), Error> {
    one_token_into(&x.kernel()?, state, out, cx)
}

/// Returns the gradients, given those to the output, `d_o: [B, T, H, V]`, and to the state after the last token,
/// `d_state`. `state` is the state before the first token, as passed to the forward call. Errors as [`recurrent`].
pub fn backward(
    x: &impl MatrixState,
    state: ArrayView4<'_, f32>,
    d_o: ArrayView4<'_, f32>,
    d_state: ArrayView4<'_, f32>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    gradient(&x.kernel()?, state, d_o, d_state, cx)
}
