//! Attention inside segments: whole ones all at once, what begins and ends a text by itself.

use std::ops::Range;

use longreach_simd::Cx;
use ndarray::{Array4, ArrayView4, Axis, CowArray, Ix4, s};

use super::{Inputs, OP, State};
use crate::Error;
use crate::softmax::dense::Dense;
use crate::softmax::{self, Cotangent, Gradient, Output};

/// What a query sees of its segment.
const PAST: Dense = Dense { causal: true };

/// Rows of segments: where they lie one behind the other already, there.
type Segments<'a> = CowArray<'a, f32, Ix4>;

/// Segments of one length.
pub(super) struct Near<'a> {
    tokens: Range<usize>,
    /// Tokens of the segment that were there before.
    pub(super) cached: usize,
    /// `[B segments, length, H, K]`
    q: Segments<'a>,
    /// With those that were there before, as values.
    k: Segments<'a>,
    v: Segments<'a>,
    scale: f32,
}

/// A text in as few calls as it can be; `seen` tokens of its first segment have been there before.
pub(super) fn near<'a>(x: &Inputs<'a>, seen: usize, state: &State) -> Vec<Near<'a>> {
    let (t, segment) = (x.q.dim().1, x.segment);
    let first = if seen == 0 { 0 } else { t.min(segment - seen) };
    let whole = first + (t - first) / segment * segment;
    let parts = [(0..first, seen, first), (first..whole, 0, segment), (whole..t, 0, t - whole)];
    let parts = parts.into_iter().filter(|(tokens, ..)| !tokens.is_empty());
    parts.map(|(tokens, cached, length)| Near::of(x, tokens, cached, length, state)).collect()
}

/// Some tokens, cut into segments.
fn cut<'a>(x: ArrayView4<'a, f32>, tokens: &Range<usize>, length: usize) -> Segments<'a> {
    let (b, _, h, d) = x.dim();
    let rows = x.slice_move(s![.., tokens.clone(), .., ..]);
    let shape = (b * tokens.len() / length, length, h, d);
    // Of one sequence, or of all tokens, the rows are there as they are wanted.
    let whole = |rows: Array4<f32>| rows.into_shape_with_order(shape).unwrap_or_else(|_| Array4::zeros(shape));
    match rows.into_shape_with_order(shape) {
        Ok(rows) => rows.into(),
        Err(_) => whole(rows.as_standard_layout().into_owned()).into(),
    }
}

impl<'a> Near<'a> {
    fn of(x: &Inputs<'a>, tokens: Range<usize>, cached: usize, length: usize, state: &State) -> Self {
        let [q, k] = x.local().map(|x| cut(x, &tokens, length));
        let v = cut(x.v, &tokens, length);
        let behind = |old: &Array4<f32>, new: Segments<'a>| match cached {
            0 => new,
            _ => ndarray::concatenate![Axis(1), *old, new].into(),
        };
        Self { tokens, cached, q, k: behind(&state.keys, k), v: behind(&state.values, v), scale: x.scale }
    }

    fn call(&self) -> softmax::Inputs<'_> {
        let offset = self.cached;
        softmax::Inputs { offset, ..softmax::Inputs::scaled(self.q.view(), self.k.view(), self.v.view(), self.scale) }
    }

    /// Attention.
    pub(super) fn forward(&self, cx: &Cx) -> Result<Output, Error> {
        softmax::chunk(&self.call(), &PAST, cx).map_err(|e| e.of(OP))
    }

    /// Puts outputs where the tokens stand.
    pub(super) fn put(&self, got: &Array4<f32>, out: &mut Array4<f32>) -> Result<(), Error> {
        let mut to = out.slice_mut(s![.., self.tokens.clone(), .., ..]);
        let rows = got.view().into_shape_with_order(to.dim());
        rows.map(|rows| to.assign(&rows)).map_err(|_| Error::Layout { op: OP, input: "q" })
    }

    /// The gradient, given that to outputs of all tokens.
    pub(super) fn backward(&self, output: &Output, d: &Array4<f32>, cx: &Cx) -> Result<Gradient, Error> {
        let d = cut(d.view(), &self.tokens, self.q.dim().1);
        softmax::backward(&self.call(), &PAST, output, &Cotangent { out: d.view(), lse: None }, cx)
            .map_err(|e| e.of(OP))
    }

    /// Adds rows of segments to where their tokens stand; those from before to `cached`.
    pub(super) fn add(&self, rows: &Array4<f32>, to: &mut Array4<f32>, cached: &mut Array4<f32>) {
        let behind = rows.dim().1 - self.q.dim().1;
        if behind > 0 {
            *cached += &rows.slice(s![.., ..behind, .., ..]);
        }
        let mut to = to.slice_mut(s![.., self.tokens.clone(), .., ..]);
        let rows = rows.slice(s![.., behind.., .., ..]).as_standard_layout().into_owned();
        if let Ok(rows) = rows.into_shape_with_order(to.dim()) {
            to += &rows;
        }
    }
}
