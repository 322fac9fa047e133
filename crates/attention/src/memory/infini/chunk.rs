//! Local attention, then the memory, with groups of heads in parallel.

use longreach_simd::Cx;
use longreach_simd::split::Part;
use ndarray::Array4;

use super::compressive_memory::{Call, Forward};
use super::local_attention::local_attention;
use super::{Inputs, OP, State, pieces};
use crate::linear::fresh;
use crate::sequences::Rows;
use crate::{Error, sequences};

/// The outputs, `[B, T, H, V]`. `state` is updated in place. Errors on wrong shapes.
pub fn chunk(x: &Inputs<'_>, state: &mut State, cx: &Cx) -> Result<Array4<f32>, Error> {
    let seen = x.check(state)?;
    let ((b, t, h, k), (_, _, g, v)) = (x.q.dim(), x.v.dim());
    let call = call(x, seen)?;
    let parts = local_attention(x, seen, state);
    let mut out = match &parts[..] {
        // A contiguous output is not copied.
        [part] => {
            let got = part.forward(cx)?.out;
            got.into_shape_with_order((b, t, h, v)).map_err(|_| Error::Layout { op: OP, input: "q" })?
        }
        parts => {
            let mut out = fresh((b, t, h, v));
            for part in parts {
                part.put(&part.forward(cx)?.out, &mut out)?;
            }
            out
        }
    };
    {
        let size = (k * (v + 1)).max(1);
        let mut memory = state.memory.as_slice_mut().ok_or(Error::Layout { op: OP, input: "state" })?.chunks_mut(size);
        let mut pending =
            state.pending.as_slice_mut().ok_or(Error::Layout { op: OP, input: "pending" })?.chunks_mut(size);
        let mut tasks = Vec::new();
        for (sequence, rows) in out.as_slice_mut().unwrap_or_default().chunks_mut((t * h * v).max(1)).enumerate() {
            for (group, out) in Part::whole(rows, h * v).columns(h / g * v).enumerate() {
                let (memory, pending) = (memory.next().unwrap_or_default(), pending.next().unwrap_or_default());
                tasks.push(Forward { call: &call, sequence, group, memory, pending, out });
            }
        }
        cx.team.for_each(tasks, |task| cx.isa.run(task));
    }
    let [keys, values] = x.under_way(seen, state);
    (state.keys, state.values) = (keys, values);
    Ok(out)
}

/// Converts the inputs for the memory's kernels.
pub(super) fn call<'a>(x: &'a Inputs<'_>, seen: usize) -> Result<Call<'a>, Error> {
    let ((_, t, h, k), (_, _, g, v)) = (x.q.dim(), x.v.dim());
    Ok(Call {
        q: sequences::Rows::of(OP, "q", &x.q)?,
        k: Rows::of(OP, "k", &x.k)?,
        v: Rows::of(OP, "v", &x.v)?,
        shares: x.gate.iter().map(|gate| 1.0 / (1.0 + (-gate).exp())).collect(),
        pieces: pieces(t, seen, x.segment).collect(),
        tokens: t,
        heads: h,
        groups: g,
        key: k,
        value: v,
        delta: x.delta,
        epsilon: x.epsilon,
    })
}
