//! One token: the state, with its denominator as the last column, is read and written once.

use longreach_simd::team::Scratch;
use longreach_simd::{Cx, Kernel, Lanes, math};
use ndarray::{ArrayView4, ArrayViewMut4, Axis};

use super::{Call, OfRows};
use crate::one_token::OneToken;
use crate::sequences::for_each_head_block;
use crate::{Error, error};

impl Call<'_> {
    /// One token of each sequence, into `out`, contiguous `[B, 1, H, V]`. `of` computes the `features` features of
    /// rows of queries and keys, `[B, 1, G]`. Allocates nothing. Returns `false`, without doing anything, if some
    /// sequence has no token or a state is empty.
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
        let x = &Inputs {
            call: self,
            q: HeadRows::of(&q),
            k: HeadRows::of(&k),
            v: HeadRows::of(&v),
            of,
            features,
            groups: g,
            heads: h,
        };
        let (outs, states) = ((out, of_value), (state, numbers));
        for_each_head_block(cx, outs, states, |first, out, states| cx.isa.run(Heads { x, first, out, states }));
        Ok(true)
    }
}

/// The rows of the heads, `[B, 1, H]`, each of which is contiguous.
enum HeadRows<'a> {
    /// All rows are contiguous, each of this width.
    Even(&'a [f32], usize),
    Each(&'a ArrayView4<'a, f32>),
}

impl<'a> HeadRows<'a> {
    fn of(x: &'a ArrayView4<'_, f32>) -> Self {
        x.as_slice().map_or(Self::Each(x), |all| Self::Even(all, x.dim().3))
    }

    /// The width of a row.
    fn width(&self) -> usize {
        match self {
            Self::Even(_, width) => *width,
            Self::Each(x) => x.dim().3,
        }
    }

    /// Row `i`.
    #[inline(always)]
    fn get(&self, i: usize) -> &'a [f32] {
        match self {
            Self::Even(all, width) => &all[i * width..(i + 1) * width],
            Self::Each(x) => {
                let (b, h) = (i / x.dim().2, i % x.dim().2);
                let head = x.view().index_axis_move(Axis(0), b).index_axis_move(Axis(0), 0).index_axis_move(Axis(0), h);
                head.to_slice().unwrap_or_default()
            }
        }
    }
}

/// The inputs of a step.
struct Inputs<'a, R> {
    call: &'a Call<'a>,
    q: HeadRows<'a>,
    k: HeadRows<'a>,
    v: HeadRows<'a>,
    of: &'a R,
    features: usize,
    groups: usize,
    heads: usize,
}

/// A task: consecutive heads, which may be of several sequences.
struct Heads<'a, 'o, R> {
    x: &'a Inputs<'a, R>,
    /// The index of the first head in `[B, H]`.
    first: usize,
    /// `[heads, V]`
    out: &'o mut [f32],
    /// `[heads, features, V]`, with one more column for a denominator; not empty.
    states: &'o mut [f32],
}

impl<R: OfRows<1>> Kernel for Heads<'_, '_, R> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self { x: &Inputs { call, ref q, ref k, ref v, of, features, groups, heads }, first, out, states } = self;
        let (scale, floor) = (call.scale as f32, call.floor);
        let width = v.width();
        let columns = width + usize::from(floor.is_some());
        let scratch = &mut Scratch::new(2 * features + 2 * columns);
        let (of_q, rest) = scratch.split_at_mut(features);
        let (of_k, rest) = rest.split_at_mut(features);
        let (value, sum) = rest.split_at_mut(columns);
        value.fill(1.0);
        let all = out.chunks_exact_mut(width).zip(states.chunks_exact_mut(features * columns));
        for (i, (out, state)) in (first..).zip(all) {
            let row = i / heads * groups + i % heads * groups / heads;
            of.row(s, row, [q.get(row)], of_q);
            of.row(s, row, [k.get(row)], of_k);
            math::copy(s, v.get(i), &mut value[..width]);
            let (write, written, read) = ([&*of_k], [&*value], &*of_q);
            OneToken { left: &[], write, written, read, read_first: false, prefetch_next: false }.pass(s, state, sum);
            let by = floor.map_or(scale, |floor| scale / floor.of(scale * sum[width]));
            math::scale_into(s, by, &sum[..width], out);
        }
    }
}
