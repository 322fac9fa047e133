//! Nyström attention: the matrix of weights put together of those of a few landmarks.
//!
//! $$ o = \mathrm{softmax}(s\,q \tilde k^\top)\; Z\; \big(\mathrm{softmax}(s\,\tilde q k^\top)\, v\big) + \mathrm{conv}(v), \qquad
//!    Z \approx A^{+}, \quad A = \mathrm{softmax}(s\,\tilde q \tilde k^\top) $$
//! $$ Z_0 = A^\top / c, \qquad Z \leftarrow \tfrac14 Z\,(13 - A Z\,(15 - A Z\,(7 - A Z))) $$
//!
//! Landmarks are the means of `m` neighbouring segments, the shorter ones first where `m` does not divide the tokens. `c` is the greatest sum of a column of `A`.
//! The iterations usually have not converged when they end, so their number is part of the definition. With no more tokens than landmarks it is softmax
//! attention itself. Every landmark mixes tokens to come: there is no causal form and no step. O(T m H (D + E) + H m³) time, O(m H (D + E + m)) memory beside
//! inputs and outputs. Xiong et al. 2021 (Nyströmformer), as the authors' code has it.

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
/// The most iterations there may be: they double the digits, and the gradient keeps a matrix for each.
const ITERATIONS: usize = 1024;

/// Where the greatest sum `c` is looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// In each head of each sequence.
    #[default]
    Own,
    /// In all heads of all sequences: what is found for one then depends on the others. As models of Hugging Face are by default.
    Original,
}

/// What padding is to landmarks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Padding {
    /// Nothing: they are made as if it were not there, and its outputs are 0.
    #[default]
    Neutral,
    /// Tokens like others, with outputs, hidden from landmarks' queries only. As in models of Hugging Face.
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
    /// A filter a head along the text, centred, `[H, width]` with an odd width; its result is added
    pub conv: Option<ArrayView2<'a, F>>,
    /// Which tokens are there and not padding, `[B, T]`
    pub keep: Option<ArrayView2<'a, bool>>,
    /// `m`
    pub landmarks: usize,
    /// How often `Z` is improved; 6 in the authors' models
    pub iterations: usize,
    /// Where `c` is looked for.
    pub start: Start,
    /// What padding is to landmarks.
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

    /// The tokens of a sequence that attention goes over.
    fn tokens(&self, b: usize) -> Vec<usize> {
        (0..self.q.dim().1).filter(|t| self.padding == Padding::Seen || self.kept(b, *t)).collect()
    }

    /// Which of them landmarks see, where there are such that they do not.
    fn seen(&self, b: usize) -> Option<ndarray::Array2<bool>> {
        let keep = self.keep.filter(|_| self.padding == Padding::Seen)?;
        Some(keep.slice(s![b..b + 1, ..]).to_owned())
    }
}

/// Some tokens of a sequence, `[1, n, H, D]`.
fn gathered<'a, F: Clone>(x: &ArrayView4<'a, F>, b: usize, tokens: &[usize]) -> CowArray<'a, F, Ix4> {
    let row = (*x).slice_move(s![b..b + 1, .., .., ..]);
    if tokens.len() == row.dim().1 { row.into() } else { row.select(ndarray::Axis(1), tokens).into() }
}

/// What every query sees.
const ALL: Dense = Dense { causal: false };

/// Where `m` segments of `n` tokens begin and end.
fn segments(n: usize, m: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let (length, short) = (n / m, m - n % m);
    let at = move |j: usize| j * length + j.saturating_sub(short);
    (0..m).map(move |j| at(j)..at(j + 1))
}

/// Attention of some queries to some keys of one sequence.
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
