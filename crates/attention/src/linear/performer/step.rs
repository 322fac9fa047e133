//! One token, for decoding.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayViewMut4};

use super::{Inputs, OP, recurrent};
use crate::{Error, error};

/// One token of each sequence, `q: [S, 1, G, K]`. Causal only.
pub fn step(x: &Inputs<'_>, state: ArrayViewMut4<'_, f32>, cx: &Cx) -> Result<Array4<f32>, Error> {
    let (b, t, g, k) = x.q.dim();
    error::shape(OP, "q", &[b, 1, g, k], &[b, t, g, k])?;
    error::parameter(OP, "causal", x.causal, x.causal, "true: a step does not know what comes")?;
    recurrent(x, state, cx)
}
