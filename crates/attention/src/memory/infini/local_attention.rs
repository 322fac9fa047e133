//! Local attention: whole segments in one batch, partial ones at the start and the end separately.

use std::ops::Range;

use longreach_simd::Cx;
use ndarray::{Array4, ArrayView4, Axis, CowArray, Ix4, s};

use super::{Inputs, OP, State};
use crate::Error;
use crate::softmax::dense::Dense;
use crate::softmax::{self, Cotangent, Gradient, Output, OutputView};

/// Attention inside a segment is causal.
const PAST: Dense = Dense { causal: true };

/// Rows of segments, borrowed if they are contiguous.
type Segments<'a> = CowArray<'a, f32, Ix4>;

/// Segments of equal length.
pub(super) struct LocalAttention<'a> {
    tokens: Range<usize>,
    /// Cached tokens of the segment.
    pub(super) cached: usize,
    /// `[B segments, length, H, K]`
    q: Segments<'a>,
    /// Including cached tokens; also for values.
    k: Segments<'a>,
    v: Segments<'a>,
    scale: f32,
}

/// Splits a text into as few calls as possible; `seen` tokens of its first segment are cached.
pub(super) fn local_attention<'a>(x: &Inputs<'a>, seen: usize, state: &State) -> Vec<LocalAttention<'a>> {
    let (t, segment) = (x.q.dim().1, x.segment);
    let first = if seen == 0 { 0 } else { t.min(segment - seen) };
    let whole = first + (t - first) / segment * segment;
    let parts = [(0..first, seen, first), (first..whole, 0, segment), (whole..t, 0, t - whole)];
    let parts = parts.into_iter().filter(|(tokens, ..)| !tokens.is_empty());
    parts.map(|(tokens, cached, length)| LocalAttention::of(x, tokens, cached, length, state)).collect()
}

/// Reshapes some tokens into segments.
fn cut<'a>(x: ArrayView4<'a, f32>, tokens: &Range<usize>, length: usize) -> Segments<'a> {
    let (b, _, h, d) = x.dim();
    let rows = x.slice_move(s![.., tokens.clone(), .., ..]);
    let shape = (b * tokens.len() / length, length, h, d);
    // For one sequence, or for all tokens, this is a reshape without a copy.
    let whole = |rows: Array4<f32>| rows.into_shape_with_order(shape).unwrap_or_else(|_| Array4::zeros(shape));
    match rows.into_shape_with_order(shape) {
        Ok(rows) => rows.into(),
        Err(_) => whole(rows.as_standard_layout().into_owned()).into(),
    }
}

impl<'a> LocalAttention<'a> {
    fn of(x: &Inputs<'a>, tokens: Range<usize>, cached: usize, length: usize, state: &State) -> Self {
        let [q, k] = x.local().map(|x| cut(x, &tokens, length));
        let v = cut(x.v, &tokens, length);
        let with_cached = |old: &Array4<f32>, new: Segments<'a>| match cached {
            0 => new,
            _ => ndarray::concatenate![Axis(1), *old, new].into(),
        };
        Self { tokens, cached, q, k: with_cached(&state.keys, k), v: with_cached(&state.values, v), scale: x.scale }
    }

    fn call(&self) -> softmax::Inputs<'_> {
        let offset = self.cached;
        softmax::Inputs { offset, ..softmax::Inputs::scaled(self.q.view(), self.k.view(), self.v.view(), self.scale) }
    }

    /// Local attention of these segments.
    pub(super) fn forward(&self, cx: &Cx) -> Result<Output, Error> {
        softmax::chunk(&self.call(), &PAST, cx).map_err(|e| e.of(OP))
    }

    /// Copies outputs to the positions of their tokens.
    pub(super) fn put(&self, got: &Array4<f32>, out: &mut Array4<f32>) -> Result<(), Error> {
        let mut to = out.slice_mut(s![.., self.tokens.clone(), .., ..]);
        let rows = got.view().into_shape_with_order(to.dim());
        rows.map(|rows| to.assign(&rows)).map_err(|_| Error::Layout { op: OP, input: "q" })
    }

    /// The gradient, given that of the outputs of all tokens.
    pub(super) fn backward(&self, output: OutputView<'_>, d: &Array4<f32>, cx: &Cx) -> Result<Gradient, Error> {
        let d = cut(d.view(), &self.tokens, self.q.dim().1);
        softmax::backward(&self.call(), &PAST, output, &Cotangent { out: d.view(), lse: None }, cx)
            .map_err(|e| e.of(OP))
    }

    /// Adds rows of segments at the positions of their tokens; rows of cached tokens go to `cached`.
    pub(super) fn add(&self, rows: &Array4<f32>, to: &mut Array4<f32>, cached: &mut Array4<f32>) {
        let cached_rows = rows.dim().1 - self.q.dim().1;
        if cached_rows > 0 {
            *cached += &rows.slice(s![.., ..cached_rows, .., ..]);
        }
        let mut to = to.slice_mut(s![.., self.tokens.clone(), .., ..]);
        let rows = rows.slice(s![.., cached_rows.., .., ..]).as_standard_layout().into_owned();
        if let Ok(rows) = rows.into_shape_with_order(to.dim()) {
            to += &rows;
        }
    }
}
