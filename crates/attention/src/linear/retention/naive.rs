//! The definition.

use ndarray::{Array4, ArrayViewMut4, s};

use super::{Inputs, OP};
use crate::fast_weights::{self, Erase, Gate, outer};
use crate::{Error, error};

/// The equation, token by token in f64.
pub fn naive(x: &Inputs<'_, f64>, mut state: ArrayViewMut4<'_, f64>) -> Result<Array4<f64>, Error> {
    let shared = fast_weights::Inputs {
        op: OP,
        q: x.q,
        k: x.k,
        v: x.v,
        gate: Gate::None,
        erase: Erase::None,
        bonus: None,
        scale: x.scale,
        sequences: x.sequences,
    };
    let dims = shared.check(state.shape())?;
    error::shape(OP, "g", &[dims.h], x.g.shape())?;
    let mut o = Array4::zeros(x.v.dim());
    for [s, b, t, h, g] in dims.tokens(OP, x.sequences)? {
        let mut state = state.slice_mut(s![s, h, .., ..]);
        state *= x.g[h].exp();
        state += &outer(x.k.slice(s![b, t, g, ..]), x.v.slice(s![b, t, h, ..]));
        o.slice_mut(s![b, t, h, ..]).assign(&(state.t().dot(&x.q.slice(s![b, t, g, ..])) * x.scale));
    }
    Ok(o)
}
