//! The definition.

use ndarray::{Array4, ArrayViewMut4};

use super::Inputs;
use crate::Error;

/// The equation, token by token in f64.
pub fn naive(x: &Inputs<'_, f64>, state: ArrayViewMut4<'_, f64>) -> Result<Array4<f64>, Error> {
    x.check(state.shape())?;
    x.call().naive([&x.map.exact(x.q), &x.map.exact(x.k)], x.v, state)
}
