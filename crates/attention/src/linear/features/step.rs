//! One token: a head's state, with its denominator as the last column, is read and written once.

use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::{Array4, ArrayView4, ArrayViewMut4, Axis};

use super::{Call, Floor};
use crate::linear::linear_attention::Map;
use crate::one_token::OneToken;
use crate::sequences::together;
use crate::{Error, Form, error};

impl Call<'_> {
    /// One token of each sequence, into `out`, contiguous `[B, 1, H, V]`; features are `map`'s of `q` and `k`, `[B, 1, G, …]`. Nothing is allocated.
    /// Whether it was done: not where some sequence has no token or a state no numbers.
    pub(in crate::linear) fn step(
        &self,
        [q, k]: [ArrayView4<'_, f32>; 2],
        map: Map,
        v: ArrayView4<'_, f32>,
        mut state: ArrayViewMut4<'_, f32>,
        out: &mut [f32],
        cx: &Cx,
    ) -> Result<bool, Error> {
        let ((b, t, g, width), (_, _, h, of_value)) = (q.dim(), v.dim());
        error::shape(self.op, "q", &[b, 1, g, width], &[b, t, g, width])?;
        error::parameter(self.op, "causal", self.causal, self.causal, "true: a step does not know what comes")?;
        let features = map.features(width);
        self.check(&q, &k, &v, features, state.shape())?;
        error::shape(self.op, "out", &[b * h * of_value], &[out.len()])?;
        let numbers = features * state.dim().3;
        if self.sequences.cut(self.op, b, t)?.len() != b || numbers == 0 || of_value == 0 {
            return Ok(false);
        }
        let state = state.as_slice_mut().ok_or(Error::Layout { op: self.op, input: "state" })?;
        let heads = |first: usize, out: &mut [f32], state: &mut [f32]| {
            for (i, (out, state)) in (first..).zip(out.chunks_exact_mut(of_value).zip(state.chunks_exact_mut(numbers)))
            {
                let (b, h, group) = (i / h, i % h, i % h * g / h);
                let head =
                    Head { q: row(&q, b, group), k: row(&k, b, group), v: row(&v, b, h), map, features, state, out };
                cx.isa.run(Divided { head, scale: self.scale as f32, floor: self.floor });
            }
        };
        let block = together(b * h, numbers, cx);
        let whole = b * h / block * block;
        let (outs, rest_of_outs) = out.split_at_mut(whole * of_value);
        let (states, rest_of_states) = state.split_at_mut(whole * numbers);
        let (outs, states) = ((outs, block * of_value), (states, block * numbers));
        cx.team.for_each_pieces(outs, states, |i, out, state| heads(i * block, out, state));
        heads(whole, rest_of_outs, rest_of_states);
        Ok(true)
    }

    /// As [`Call::step`], of features that have been made.
    pub(in crate::linear) fn step_of_features(
        &self,
        [q, k]: [&Array4<f32>; 2],
        v: ArrayView4<'_, f32>,
        mut state: ArrayViewMut4<'_, f32>,
        out: &mut [f32],
        cx: &Cx,
    ) -> Result<(), Error> {
        if !self.step([q.view(), k.view()], Map::Identity, v, state.view_mut(), out, cx)? {
            out.copy_from_slice(self.forward([q, k], v, Form::Recurrent, state, cx)?.as_slice().unwrap_or_default());
        }
        Ok(())
    }
}

/// A head's row of the only token; checked to lie together.
fn row<'a>(x: &ArrayView4<'a, f32>, b: usize, h: usize) -> &'a [f32] {
    let head = (*x).index_axis_move(Axis(0), b).index_axis_move(Axis(0), 0).index_axis_move(Axis(0), h);
    head.to_slice().unwrap_or_default()
}

/// One head of one sequence.
struct Head<'a, 'o> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    map: Map,
    features: usize,
    /// `[features, V]`, with one more column where there is a denominator.
    state: &'o mut [f32],
    out: &'o mut [f32],
}

/// Its output, divided.
struct Divided<'a, 'o> {
    head: Head<'a, 'o>,
    scale: f32,
    floor: Option<Floor>,
}

impl Kernel for Divided<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self { head: Head { q, k, v, map, features, state, out }, scale, floor } = self;
        let columns = state.len() / features;
        let scratch = &mut Scratch::new(2 * features + 2 * columns);
        let (of_q, rest) = scratch.split_at_mut(features);
        let (of_k, rest) = rest.split_at_mut(features);
        let (value, sum) = rest.split_at_mut(columns);
        map.of_row(s, q, of_q);
        map.of_row(s, k, of_k);
        value.fill(1.0);
        math::copy(s, v, &mut value[..v.len()]);
        let (write, written, read) = ([&*of_k], [&*value], &*of_q);
        OneToken { left: &[], write, written, read, early: false, onward: false }.pass(s, state, sum);
        let by = floor.map_or(scale, |floor| scale / floor.of(scale * sum[v.len()]));
        math::scale_into(s, by, &sum[..v.len()], out);
    }
}
