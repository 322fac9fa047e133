//! Nyström attention: the attention matrix is approximated from those of a few landmarks.
//!
//! $$ o = \mathrm{softmax}(s\,q \tilde k^\top)\; Z\; \big(\mathrm{softmax}(s\,\tilde q k^\top)\, v\big) + \mathrm{conv}(v), \qquad
//!    Z \approx A^{+}, \quad A = \mathrm{softmax}(s\,\tilde q \tilde k^\top) $$
//! $$ Z_0 = A^\top / c, \qquad Z \leftarrow \tfrac14 Z\,(13 - A Z\,(15 - A Z\,(7 - A Z))) $$
//!
//! Landmarks are the means of `m` consecutive segments, the shorter ones first where `m` does not divide the number of
//! tokens. `c` is the largest column sum of `A`. The iterations usually stop before convergence, so their number is
//! part of the definition. With no more tokens than landmarks the result is exact softmax attention. Landmarks mix past
//! and future tokens: there is no causal form and no step. O(T m H (D + E) + H m³) time, O(m H (D + E + m)) memory
//! beside inputs and outputs. Xiong et al. 2021 (Nyströmformer), as in the authors' code.

use ndarray::{Array4, ArrayView2, ArrayView4, CowArray, Ix4, s};
use serde::Deserialize;

use crate::softmax;
use crate::softmax::dense::Dense;
use crate::{Error, error};

mod backward;
mod chunk;
mod conv;
mod inverse;
mod naive;
pub(crate) mod operation;

pub use backward::{Gradient, backward};
pub use chunk::chunk;
pub use naive::naive;

const OP: &str = "nystrom";
/// The largest permitted number of iterations: convergence is quadratic, and the backward pass keeps a matrix for each.
const ITERATIONS: usize = 1024;

/// The scope of the maximal column sum `c`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// Each head of each sequence separately.
    #[default]
    Own,
    /// All heads of all sequences: the result for a sequence then depends on the rest of the batch. The default of
    /// Hugging Face's models.
    Original,
}

/// How landmarks treat padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Padding {
    /// Padding is excluded: the result is the same as without it, and its outputs are 0.
    #[default]
    Neutral,
    /// Padding counts as ordinary tokens, with outputs; it is masked only in the landmarks' attention. As in Hugging
    /// Face's models.
    Seen,
}

/// The inputs; `F` is f32, or f64 for the definition.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, F = f32> {
    /// `[B, T, H, D]`
    pub q: ArrayView4<'a, F>,
    /// `[B, T, H, D]`
    pub k: ArrayView4<'a, F>,
    /// `[B, T, H, E]`
    pub v: ArrayView4<'a, F>,
    /// One centred filter per head along the sequence, `[H, width]` with an odd width; its result is added
    pub conv: Option<ArrayView2<'a, F>>,
    /// The padding mask, `[B, T]`: true for tokens
    pub keep: Option<ArrayView2<'a, bool>>,
    /// `m`
    pub landmarks: usize,
    /// Iterations for `Z`; 6 in the authors' models
    pub iterations: usize,
    /// The scope of `c`.
    pub start: Start,
    /// How landmarks treat padding.
    pub padding: Padding,
    /// `s`, often `D^{-1/2}`
    pub scale: F,
}

impl<F: Copy + Into<f64>> Inputs<'_, F> {
    fn check(&self) -> Result<(), Error> {
        let ((b, t, h, d), e) = (self.q.dim(), self.v.dim().3);
        error::some(OP, [("H", h), ("D", d), ("E", e)])?;
        error::shape(OP, "k", &[b, t, h, d], self.k.shape())?;
        error::shape(OP, "v", &[b, t, h, e], self.v.shape())?;
        error::parameter(OP, "landmarks", self.landmarks > 0, self.landmarks, "at least 1")?;
        let few = self.iterations <= ITERATIONS;
        error::parameter(OP, "iterations", few, self.iterations, format!("at most {ITERATIONS}"))?;
        error::number(OP, "scale", self.scale)?;
        if let Some(conv) = &self.conv {
            let width = conv.dim().1;
            error::parameter(OP, "conv", width % 2 == 1, width, "a filter of odd width")?;
            error::shape(OP, "conv", &[h, width], conv.shape())?;
        }
        match &self.keep {
            Some(keep) => error::shape(OP, "keep", &[b, t], keep.shape()),
            None => Ok(()),
        }
    }

    fn kept(&self, b: usize, t: usize) -> bool {
        self.keep.is_none_or(|keep| keep[[b, t]])
    }

    /// The tokens of a sequence that take part in attention.
    fn tokens(&self, b: usize) -> Vec<usize> {
        (0..self.q.dim().1).filter(|t| self.padding == Padding::Seen || self.kept(b, *t)).collect()
    }

    /// The mask of those tokens for the landmarks' attention, if it excludes any.
    fn seen(&self, b: usize) -> Option<ndarray::Array2<bool>> {
        let keep = self.keep.filter(|_| self.padding == Padding::Seen)?;
        Some(keep.slice(s![b..b + 1, ..]).to_owned())
    }
}

/// Gathers some tokens of a sequence, `[1, n, H, D]`.
fn gathered<'a, F: Clone>(x: &ArrayView4<'a, F>, b: usize, tokens: &[usize]) -> CowArray<'a, F, Ix4> {
    let row = (*x).slice_move(s![b..b + 1, .., .., ..]);
    if tokens.len() == row.dim().1 { row.into() } else { row.select(ndarray::Axis(1), tokens).into() }
}

/// Every query attends to all keys.
const ALL: Dense = Dense { causal: false };

/// The ranges of `m` segments of `n` tokens.
fn segments(n: usize, m: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let (length, short) = (n / m, m - n % m);
    let at = move |j: usize| j * length + j.saturating_sub(short);
    (0..m).map(move |j| at(j)..at(j + 1))
}

/// The softmax inputs for one sequence.
fn attention<'a>(
    [q, k, v]: [ArrayView4<'a, f32>; 3],
    keep: Option<&'a ndarray::Array2<bool>>,
    scale: f32,
) -> softmax::Inputs<'a> {
    softmax::Inputs { keep: keep.map(|keep| keep.view()), ..softmax::Inputs::scaled(q, k, v, scale) }
}

/// The means of `m` segments, `[1, m, H, D]`.
fn landmarks(x: ArrayView4<'_, f32>, m: usize) -> Array4<f32> {
    let (_, n, h, d) = x.dim();
    let mut out = Array4::zeros((1, m, h, d));
    for (j, tokens) in segments(n, m).enumerate() {
        let by = 1.0 / tokens.len() as f32;
        let mut mean = out.slice_mut(s![0, j, .., ..]);
        for t in tokens {
            mean += &x.slice(s![0, t, .., ..]);
        }
        mean *= by;
    }
    out
}
