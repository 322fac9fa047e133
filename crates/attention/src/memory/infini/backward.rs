//! The backward pass, through any number of segments: the memory from the last segment to the first, then local
//! attention.

use longreach_simd::Cx;
use longreach_simd::split::Part;
use ndarray::{Array1, Array4, ArrayView4};

use super::chunk::call;
use super::compressive_memory::Backward;
use super::local_attention::local_attention;
use super::{Inputs, OP, State};
use crate::linear::fresh;
use crate::sequences::Rows;
use crate::{Error, error};

/// The gradients with respect to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, H, K]`
    pub q: Array4<f32>,
    /// `[B, T, G, K]`
    pub k: Array4<f32>,
    /// `[B, T, G, V]`
    pub v: Array4<f32>,
    /// With respect to the local queries and keys, if they are separate inputs
    pub local: Option<[Array4<f32>; 2]>,
    /// `[H]`
    pub gate: Array1<f32>,
    /// With respect to the initial state
    pub state: State,
}

/// The gradients, given that of the output, `d_o: [B, T, H, V]`, and those of the final memory and of its pending
/// update.
///
/// `state` is the initial state, as the forward call received it. Errors on wrong shapes.
pub fn backward(
    x: &Inputs<'_>,
    state: &State,
    d_o: ArrayView4<'_, f32>,
    d_memory: ArrayView4<'_, f32>,
    d_pending: ArrayView4<'_, f32>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    let seen = x.check(state)?;
    let ((b, t, h, k), (_, _, g, v)) = (x.q.dim(), x.v.dim());
    error::shape(OP, "do", &[b, t, h, v], d_o.shape())?;
    error::shape(OP, "dstate", state.memory.shape(), d_memory.shape())?;
    error::shape(OP, "dpending", state.pending.shape(), d_pending.shape())?;
    let call = call(x, seen)?;
    let mut local_out = fresh((b, t, h, v));
    let parts = local_attention(x, seen, state);
    let mut outputs = Vec::new();
    for part in &parts {
        let output = part.forward(cx)?;
        part.put(&output.out, &mut local_out)?;
        outputs.push(output);
    }
    let mut to = Gradient {
        q: fresh((b, t, h, k)),
        k: fresh((b, t, g, k)),
        v: fresh((b, t, g, v)),
        local: None,
        gate: Array1::zeros(h),
        state: State {
            memory: d_memory.as_standard_layout().into_owned(),
            pending: d_pending.as_standard_layout().into_owned(),
            keys: Array4::zeros(state.keys.dim()),
            values: Array4::zeros(state.values.dim()),
        },
    };
    let mut d_local = fresh((b, t, h, v));
    let mut d_gate = vec![0.0f32; b * h];
    {
        let local_view = local_out.view();
        let (local_rows, d_o) = (Rows::of(OP, "o", &local_view)?, Rows::of(OP, "do", &d_o)?);
        let (size, shared) = ((k * (v + 1)).max(1), h / g);
        let memory = state.memory.as_standard_layout();
        let pending = state.pending.as_standard_layout();
        let [mut memory, mut pending] = [&memory, &pending].map(|x| x.as_slice().unwrap_or_default().chunks(size));
        let [mut d_memory, mut d_pending] = [&mut to.state.memory, &mut to.state.pending]
            .map(|x| x.as_slice_mut().unwrap_or_default().chunks_mut(size));
        let mut gates = d_gate.chunks_mut(shared.max(1));
        let [mut dq, mut dk, mut dv, mut of_local] =
            [(&mut to.q, shared * k), (&mut to.k, k), (&mut to.v, v), (&mut d_local, shared * v)].map(|(x, width)| {
                let rows = (t * g * width).max(1);
                let texts = x.as_slice_mut().unwrap_or_default().chunks_mut(rows);
                texts.flat_map(move |text| Part::whole(text, g * width).columns(width)).collect::<Vec<_>>().into_iter()
            });
        let mut tasks = Vec::new();
        for (sequence, group) in (0..b).flat_map(|b| (0..g).map(move |g| (b, g))) {
            let (Some(dq), Some(dk), Some(dv), Some(d_local)) = (dq.next(), dk.next(), dv.next(), of_local.next())
            else {
                continue;
            };
            tasks.push(Backward {
                call: &call,
                sequence,
                group,
                memory: memory.next().unwrap_or_default(),
                pending: pending.next().unwrap_or_default(),
                local: &local_rows,
                d_o: &d_o,
                d_memory: d_memory.next().unwrap_or_default(),
                d_pending: d_pending.next().unwrap_or_default(),
                dq,
                dk,
                dv,
                d_local,
                d_gate: gates.next().unwrap_or_default(),
            });
        }
        cx.team.for_each(tasks, |task| cx.isa.run(task));
    }
    for (i, d) in d_gate.iter().enumerate() {
        to.gate[i % h] += d;
    }
    let mut local = x.local.map(|[q, k]| [Array4::zeros(q.dim()), Array4::zeros(k.dim())]);
    let mut none = Array4::zeros((b, 0, h, k));
    for (part, output) in parts.iter().zip(&outputs) {
        let got = part.backward(output.view(), &d_local, cx)?;
        let (dq, dk) = match &mut local {
            Some([dq, dk]) => (dq, dk),
            None => (&mut to.q, &mut to.k),
        };
        part.add(&got.q, dq, &mut none);
        part.add(&got.k, dk, &mut to.state.keys);
        part.add(&got.v, &mut to.v, &mut to.state.values);
    }
    to.local = local;
    Ok(to)
}
