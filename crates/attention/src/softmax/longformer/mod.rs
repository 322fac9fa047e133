//! A sliding window, and global tokens that attend to all tokens and are attended to by all.
//!
//! $$ N(i) = \{ j : |i - j| \le w \} \cup G \quad (i \notin G), \qquad N(i) = \{ j \} \quad (i \in G) $$
//!
//! Global tokens may have separate projections, which [`chunk`] takes: then a global query attends to the global keys
//! and values of all tokens, while other queries use the ordinary ones. A key that is both in the window and global
//! counts once. O(T (2w + 1 + |G|) H D) time. Beltagy et al. 2020, §3.1; the conventions are Hugging Face's, with
//! `w = attention_window / 2`.

use std::ops::Range;

use longreach_simd::Cx;
use longreach_simd::product::Stored;
use ndarray::{Array2, Array4, ArrayView2, ArrayView4, s};

use super::mask::Bits;
use super::{Cotangent, Gradient, Inputs, Output, OutputView, dense::Dense};
use crate::{Error, Sequences, error};

mod naive;
pub(crate) mod operation;
mod pattern;

const OP: &str = "longformer";

/// The pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Longformer {
    window: usize,
    /// The mask of global tokens, one row per sequence of the batch, or one for all; and its length.
    global: Vec<Bits>,
    tokens: usize,
    /// Whether global queries attend to nothing.
    local: bool,
}

impl Longformer {
    /// A window of `window` tokens on either side, and the mask of global tokens `[B or 1, T]`.
    pub fn new(window: usize, global: ArrayView2<'_, bool>) -> Self {
        let rows = global.outer_iter().map(|row| Bits::of(row.iter().copied())).collect();
        Self { window, global: rows, tokens: global.dim().1, local: false }
    }

    /// The same pattern, but global queries attend to nothing: their rows are computed separately.
    #[must_use]
    pub fn without_global_queries(self) -> Self {
        Self { local: true, ..self }
    }

    fn is_global(&self, b: usize, i: usize) -> bool {
        self.global[b % self.global.len()].get(i..i + 1) == 1
    }
}

/// The separate projections of global tokens.
#[derive(Clone, Copy, Debug)]
pub struct Global<'a, T = f32> {
    /// `[B, T, H, D]`
    pub q: ArrayView4<'a, T>,
    /// `[B, T, G, D]`
    pub k: ArrayView4<'a, T>,
    /// `[B, T, G, E]`
    pub v: ArrayView4<'a, T>,
}

/// The gradients with respect to both sets of projections.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// With respect to the ordinary ones.
    pub local: Gradient,
    /// With respect to those of global tokens.
    pub global: Gradient,
}

/// The tokens of each sequence: the whole row, or the ranges of packed sequences.
fn texts(sequences: Sequences<'_>, batch: usize, tokens: usize) -> Result<Vec<Range<usize>>, Error> {
    match sequences {
        Sequences::Batch => Ok(std::iter::once(0..tokens).collect()),
        packed => packed.ranges(OP, batch, tokens),
    }
}

/// The gathered global queries of a range of tokens: positions `[B, n]`, with `n` the maximum over sequences, and
/// whether each exists.
struct Gathered {
    /// The tokens that they attend to.
    tokens: Range<usize>,
    positions: Array2<usize>,
    there: Array2<bool>,
}

impl Gathered {
    /// For all sequences of a batch at once, or for one packed sequence after another.
    fn of<T>(x: &Inputs<'_, T>, pattern: &Longformer) -> Result<Vec<Self>, Error> {
        let (batch, tokens, ..) = x.q.dim();
        Ok(texts(x.sequences, batch, tokens)?.into_iter().map(|tokens| Self::among(tokens, pattern, batch)).collect())
    }

    fn among(tokens: Range<usize>, pattern: &Longformer, batch: usize) -> Self {
        let rows: Vec<Vec<usize>> =
            (0..batch).map(|b| tokens.clone().filter(|i| pattern.is_global(b, *i)).collect()).collect();
        let most = rows.iter().map(Vec::len).max().unwrap_or(0);
        let positions = Array2::from_shape_fn((batch, most), |(b, n)| rows[b].get(n).copied().unwrap_or(0));
        let there = Array2::from_shape_fn((batch, most), |(b, n)| n < rows[b].len());
        Self { tokens, positions, there }
    }

    /// The softmax inputs of these queries.
    fn inputs<'s, T>(&self, x: &'s Inputs<'_, T>, global: &'s Global<'_, T>, q: ArrayView4<'s, T>) -> Inputs<'s, T> {
        let tokens = self.tokens.clone();
        let k = global.k.slice(s![.., tokens.clone(), .., ..]);
        let v = global.v.slice(s![.., tokens.clone(), .., ..]);
        Inputs {
            softcap: x.softcap,
            weights: x.weights.as_ref().map(|weights| weights.slice(s![.., tokens.clone()])),
            keep: x.keep.as_ref().map(|keep| keep.slice(s![.., tokens])),
            ..Inputs::scaled(q, k, v, x.scale)
        }
    }

    fn gather<T: Copy>(&self, x: ArrayView4<'_, T>) -> Array4<T> {
        let (b, n) = self.positions.dim();
        Array4::from_shape_fn((b, n, x.dim().2, x.dim().3), |(b, n, h, d)| x[[b, self.positions[[b, n]], h, d]])
    }

    fn each(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        self.there.indexed_iter().filter(|(_, there)| **there).map(|((b, n), _)| (b, n, self.positions[[b, n]]))
    }
}

fn check<T, F: Copy + Into<f64>>(
    x: &Inputs<'_, T, F>,
    pattern: &Longformer,
    global: &Global<'_, T>,
) -> Result<(), Error> {
    let none = x.offset == 0 && x.bias.is_none() && x.alibi.is_none() && x.sinks.is_none();
    error::parameter(OP, "offset, bias, alibi or sinks", none, "given", "none with projections of global tokens")?;
    error::shape(OP, "global q", x.q.shape(), global.q.shape())?;
    error::shape(OP, "global k", x.k.shape(), global.k.shape())?;
    error::shape(OP, "global v", x.v.shape(), global.v.shape())?;
    super::Pattern::check(pattern, &x.sizes(OP)?.0)
}

/// Attention of all queries, with separate projections for global ones. Errors on wrong shapes.
pub fn chunk<T: Stored>(
    x: &Inputs<'_, T>,
    global: &Global<'_, T>,
    pattern: &Longformer,
    cx: &Cx,
) -> Result<Output, Error> {
    check(x, pattern, global)?;
    let mut output = super::chunk(x, &pattern.clone().without_global_queries(), cx)?;
    for gathered in Gathered::of(x, pattern)? {
        let q = gathered.gather(global.q);
        let all = super::chunk(&gathered.inputs(x, global, q.view()), &Dense { causal: false }, cx)?;
        for (b, n, i) in gathered.each() {
            output.out.slice_mut(s![b, i, .., ..]).assign(&all.out.slice(s![b, n, .., ..]));
            output.lse.slice_mut(s![b, i, ..]).assign(&all.lse.slice(s![b, n, ..]));
        }
    }
    Ok(output)
}

/// The gradient of [`chunk`].
pub fn backward<T: Stored>(
    x: &Inputs<'_, T>,
    global: &Global<'_, T>,
    pattern: &Longformer,
    output: OutputView<'_>,
    d: &Cotangent<'_>,
    cx: &Cx,
) -> Result<Gradients, Error> {
    check(x, pattern, global)?;
    let local = super::backward(x, &Longformer { local: true, ..pattern.clone() }, output, d, cx)?;
    let zeros = |x: &ArrayView4<'_, T>| Array4::zeros(x.dim());
    let [q, k, v] = [&x.q, &x.k, &x.v].map(zeros);
    let mut all = Gradient { q, k, v, sinks: None, bias: None };
    for gathered in Gathered::of(x, pattern)? {
        let (b, n) = gathered.positions.dim();
        let q = gathered.gather(global.q);
        let lse = output.lse.insert_axis(ndarray::Axis(3));
        let part =
            Output { out: gathered.gather(output.out), lse: gathered.gather(lse).index_axis_move(ndarray::Axis(3), 0) };
        let mut out = Array4::zeros((b, n, x.q.dim().2, x.v.dim().3));
        let mut lse = ndarray::Array3::zeros((b, n, x.q.dim().2));
        // Padding of the gathered queries has no gradient.
        for (b, n, i) in gathered.each() {
            out.slice_mut(s![b, n, .., ..]).assign(&d.out.slice(s![b, i, .., ..]));
            if let Some(d) = &d.lse {
                lse.slice_mut(s![b, n, ..]).assign(&d.slice(s![b, i, ..]));
            }
        }
        let d = Cotangent { out: out.view(), lse: Some(lse.view()) };
        let inputs = gathered.inputs(x, global, q.view());
        let got = super::backward(&inputs, &Dense { causal: false }, part.view(), &d, cx)?;
        for (b, n, i) in gathered.each() {
            all.q.slice_mut(s![b, i, .., ..]).assign(&got.q.slice(s![b, n, .., ..]));
        }
        all.k.slice_mut(s![.., gathered.tokens.clone(), .., ..]).assign(&got.k);
        all.v.slice_mut(s![.., gathered.tokens.clone(), .., ..]).assign(&got.v);
    }
    Ok(Gradients { local, global: all })
}
