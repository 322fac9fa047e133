//! One decoding step.

use longreach_simd::Cx;
use ndarray::{Array3, ArrayViewMut3};

use super::recurrent::{Channels, Tokens};
use super::{Inputs, OP, recurrent};
use crate::diagonal::channels_per_task;
use crate::{Error, error};

/// One token of each sequence, `k: [S, 1, D]`. `state` is updated in place. Errors on wrong shapes.
pub fn step(x: &Inputs<'_>, state: ArrayViewMut3<'_, f32>, cx: &Cx) -> Result<Array3<f32>, Error> {
    let mut out = Array3::zeros(x.k.dim());
    step_into(x, state, out.as_slice_mut().unwrap_or_default(), cx)?;
    Ok(out)
}

/// As [`step`], into `out`, contiguous `[S, 1, D]`, without allocating.
pub fn step_into(x: &Inputs<'_>, mut state: ArrayViewMut3<'_, f32>, out: &mut [f32], cx: &Cx) -> Result<(), Error> {
    let (b, t, d) = x.k.dim();
    error::shape(OP, "k", &[b, 1, d], &[b, t, d])?;
    x.check(state.shape())?;
    error::shape(OP, "out", &[b * d], &[out.len()])?;
    if x.sequences.cut(OP, b, t)?.len() != b {
        out.copy_from_slice(recurrent(x, state, cx)?.as_slice().unwrap_or_default());
        return Ok(());
    }
    let state = state.as_slice_mut().ok_or(Error::Layout { op: OP, input: "state" })?;
    let rows = &Tokens::of(x)?;
    cx.team.for_each_columns([(out, 1), (state, 3)], (d, channels_per_task(b * d, cx)), |t, first, out, state| {
        let channels = first..first + out.width();
        cx.isa.run(Channels { x: rows, range: t..t + 1, channels, out, state });
    });
    Ok(())
}
