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
        let (q, k, v) = (x.q.slice(s![b, t, h, ..]), x.k.slice(s![b, t, h, ..]), x.v.slice(s![b, t, h, ..]));
        let seen = &state + &outer((&x.u.row(h) * &k).view(), v);
        o.slice_mut(s![b, t, h, ..]).assign(&(seen.t().dot(&q) * x.scale));
        state *= &x.g.row(h).mapv(f64::exp).insert_axis(Axis(1));
        state += &outer(k, v);
    }
    Ok(o)
}
