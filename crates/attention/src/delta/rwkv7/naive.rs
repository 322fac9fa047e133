//! The definition.

use ndarray::{Array4, ArrayViewMut4, Axis, s};

use super::{Inputs, OP};
use crate::Error;
use crate::fast_weights::{MatrixState, outer};

/// The equation, token by token in f64.
pub fn naive(x: &Inputs<'_, f64>, mut state: ArrayViewMut4<'_, f64>) -> Result<Array4<f64>, Error> {
    let dims = x.kernel()?.check(state.shape())?;
    let mut o = Array4::zeros(x.v.dim());
    for [s, b, t, h, _] in dims.tokens(OP, x.sequences)? {
        let mut state = state.slice_mut(s![s, h, .., ..]);
        let kappa = x.kappa.slice(s![b, t, h, ..]);
        let erased = state.t().dot(&kappa);
        state *= &x.g.slice(s![b, t, h, ..]).mapv(f64::exp).insert_axis(Axis(1));
        state -= &outer((&kappa * &x.a.slice(s![b, t, h, ..])).view(), erased.view());
        state += &outer(x.k.slice(s![b, t, h, ..]), x.v.slice(s![b, t, h, ..]));
        o.slice_mut(s![b, t, h, ..]).assign(&(state.t().dot(&x.q.slice(s![b, t, h, ..])) * x.scale));
    }
    Ok(o)
}
