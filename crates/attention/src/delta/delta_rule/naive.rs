//! The definition.

use ndarray::{Array4, ArrayViewMut4, s};

use super::{Inputs, OP};
use crate::Error;
use crate::fast_weights::{MatrixState, outer};

/// The equation, token by token in f64.
pub fn naive(x: &Inputs<'_, f64>, mut state: ArrayViewMut4<'_, f64>) -> Result<Array4<f64>, Error> {
    let dims = x.kernel()?.check(state.shape())?;
    let mut o = Array4::zeros(x.v.dim());
    for [s, b, t, h, g] in dims.tokens(OP, x.sequences)? {
        let mut state = state.slice_mut(s![s, h, .., ..]);
        let k = x.k.slice(s![b, t, g, ..]);
        let delta = x.beta[[b, t, h]] * (&x.v.slice(s![b, t, h, ..]) - &state.t().dot(&k));
        state += &outer(k, delta.view());
        o.slice_mut(s![b, t, h, ..]).assign(&(state.t().dot(&x.q.slice(s![b, t, g, ..])) * x.scale));
    }
    Ok(o)
}
