//! One token: a head's state, with its denominator as the last column, is read and written once.

use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::{ArrayView4, ArrayViewMut4, Axis};

use super::{Call, Floor, OfRows};
use crate::one_token::OneToken;
use crate::sequences::together;
use crate::{Error, error};

impl Call<'_> {
    /// One token of each sequence, into `out`, contiguous `[B, 1, H, V]`; queries and keys have so many features, `of` their rows
    /// `[B, 1, G]`. Nothing is allocated.
    /// Whether it was done: not where some sequence has no token or a state no numbers.
    pub(in crate::linear) fn step(
        &self,
        [q, k]: [ArrayView4<'_, f32>; 2],
        (of, features): (&impl OfRows<1>, usize),
        v: ArrayView4<'_, f32>,
        mut state: ArrayViewMut4<'_, f32>,
        out: &mut [f32],
        cx: &Cx,
    ) -> Result<bool, Error> {
        let ((b, t, g, width), (_, _, h, of_value)) = (q.dim(), v.dim());
        error::shape(self.op, "q", &[b, 1, g, width], &[b, t, g, width])?;
        error::parameter(self.op, "causal", self.causal, self.causal, "true: a step does not know what comes")?;
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
                let (q, k, v) = (row(&q, b, group), row(&k, b, group), row(&v, b, h));
                let head = Head { q, k, v, of, row: b * g + group, features, state, out };
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
}

/// A head's row of the only token; checked to lie together.
fn row<'a>(x: &ArrayView4<'a, f32>, b: usize, h: usize) -> &'a [f32] {
    let head = (*x).index_axis_move(Axis(0), b).index_axis_move(Axis(0), 0).index_axis_move(Axis(0), h);
    head.to_slice().unwrap_or_default()
}

/// One head of one sequence.
struct Head<'a, 'o, R> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    of: &'a R,
    /// Which row of queries and keys that is.
    row: usize,
    features: usize,
    /// `[features, V]`, with one more column where there is a denominator.
    state: &'o mut [f32],
    out: &'o mut [f32],
}

/// Its output, divided.
struct Divided<'a, 'o, R> {
    head: Head<'a, 'o, R>,
    scale: f32,
    floor: Option<Floor>,
}

impl<R: OfRows<1>> Kernel for Divided<'_, '_, R> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self { head: Head { q, k, v, of, row, features, state, out }, scale, floor } = self;
        let columns = state.len() / features;
        let scratch = &mut Scratch::new(2 * features + 2 * columns);
        let (of_q, rest) = scratch.split_at_mut(features);
        let (of_k, rest) = rest.split_at_mut(features);
        let (value, sum) = rest.split_at_mut(columns);
        of.row(s, row, [q], of_q);
        of.row(s, row, [k], of_k);
        value.fill(1.0);
        math::copy(s, v, &mut value[..v.len()]);
        let (write, written, read) = ([&*of_k], [&*value], &*of_q);
        OneToken { left: &[], write, written, read, early: false, onward: false }.pass(s, state, sum);
        let by = floor.map_or(scale, |floor| scale / floor.of(scale * sum[v.len()]));
        math::scale_into(s, by, &sum[..v.len()], out);
    }
}
