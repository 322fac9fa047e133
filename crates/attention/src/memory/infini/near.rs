//! Attention inside segments: whole ones all at once, what begins and ends a text by itself.

use std::ops::Range;

use longreach_simd::Cx;
use ndarray::{Array4, ArrayView4, Axis, s};

use super::{Inputs, OP, State};
use crate::Error;
use crate::softmax::dense::Dense;
use crate::softmax::{self, Cotangent, Gradient, Output};

/// What a query sees of its segment.
const PAST: Dense = Dense { causal: true };

/// Segments of one length.
pub(super) struct Near {
    tokens: Range<usize>,
    /// Tokens of the segment that were there before.
    pub(super) cached: usize,
    /// `[B segments, length, H, K]`
    q: Array4<f32>,
    /// With those that were there before, as values.
    k: Array4<f32>,
    v: Array4<f32>,
    scale: f32,
}

/// A text in as few calls as it can be; `seen` tokens of its first segment have been there before.
pub(super) fn near(x: &Inputs<'_>, seen: usize, state: &State) -> Vec<Near> {
    let (t, segment) = (x.q.dim().1, x.segment);
    let first = if seen == 0 { 0 } else { t.min(segment - seen) };
    let whole = first + (t - first) / segment * segment;
    let parts = [(0..first, seen, first), (first..whole, 0, segment), (whole..t, 0, t - whole)];
    let parts = parts.into_iter().filter(|(tokens, ..)| !tokens.is_empty());
    parts.map(|(tokens, cached, length)| Near::of(x, tokens, cached, length, state)).collect()
}

/// Some tokens, cut into segments.
fn cut(x: &ArrayView4<'_, f32>, tokens: &Range<usize>, length: usize) -> Array4<f32> {
    let (b, _, h, d) = x.dim();
    let rows = x.slice(s![.., tokens.clone(), .., ..]).as_standard_layout().into_owned();
    let shape = (b * tokens.len() / length, length, h, d);
    rows.into_shape_with_order(shape).unwrap_or_else(|_| Array4::zeros(shape))
}

impl Near {
    fn of(x: &Inputs<'_>, tokens: Range<usize>, cached: usize, length: usize, state: &State) -> Self {
        let [q, k] = x.local().map(|x| cut(&x, &tokens, length));
        let v = cut(&x.v, &tokens, length);
        let behind = |old: &Array4<f32>, new: Array4<f32>| match cached {
            0 => new,
            _ => ndarray::concatenate![Axis(1), *old, new],
        };
        Self { tokens, cached, q, k: behind(&state.keys, k), v: behind(&state.values, v), scale: x.scale }
    }

    fn call(&self) -> softmax::Inputs<'_> {
        let offset = self.cached;
        softmax::Inputs { offset, ..softmax::Inputs::scaled(self.q.view(), self.k.view(), self.v.view(), self.scale) }
    }

    /// Attention; its output also goes to where the tokens stand.
    pub(super) fn forward(&self, out: &mut Array4<f32>, cx: &Cx) -> Result<Output, Error> {
        let got = softmax::chunk(&self.call(), &PAST, cx).map_err(|e| e.of(OP))?;
        let mut to = out.slice_mut(s![.., self.tokens.clone(), .., ..]);
        let rows = got.out.view().into_shape_with_order(to.dim());
        rows.map(|rows| to.assign(&rows)).map_err(|_| Error::Layout { op: OP, input: "q" })?;
        Ok(got)
    }

    /// The gradient, given that to outputs of all tokens.
    pub(super) fn backward(&self, output: &Output, d: &Array4<f32>, cx: &Cx) -> Result<Gradient, Error> {
        let d = cut(&d.view(), &self.tokens, self.q.dim().1);
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
