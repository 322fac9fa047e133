//! A window, and some tokens that see and are seen by all.
//!
//! $$ N(i) = \{ j : |i - j| \le w \} \cup G \quad (i \notin G), \qquad N(i) = \{ j \} \quad (i \in G) $$
//!
//! Global tokens may have projections of their own: [`chunk`] takes them, and then a global query meets the global keys and values of all
//! tokens, while the others meet the ordinary ones. A key counts once, in the window or as global.
//! O(T (2w + 1 + |G|) H D) time. Beltagy et al. 2020, §3.1; the conventions are Hugging Face's, with `w = attention_window / 2`.

use std::ops::Range;

use longreach_simd::Cx;
use longreach_simd::product::Stored;
use ndarray::{Array2, Array4, ArrayView2, ArrayView4, s};

use super::mask::Bits;
use super::{Cotangent, Gradient, Inputs, Output, dense::Dense};
use crate::{Error, Sequences, error};

mod naive;
pub(crate) mod operation;
mod pattern;

const OP: &str = "longformer";

/// The pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Longformer {
    window: usize,
    /// Which tokens are global, a row for each sequence of the batch, or one for all; and how many they are.
    global: Vec<Bits>,
    tokens: usize,
    /// Whether global queries are left out.
    local: bool,
}

impl Longformer {
    /// A window of `window` tokens on either side, and the global tokens `[B or 1, T]`.
    pub fn new(window: usize, global: ArrayView2<'_, bool>) -> Self {
        let rows = global.outer_iter().map(|row| Bits::of(row.iter().copied())).collect();
        Self { window, global: rows, tokens: global.dim().1, local: false }
    }

    /// The same, but global tokens see nothing: for their rows somebody else cares.
    #[must_use]
    pub fn without_global_queries(self) -> Self {
        Self { local: true, ..self }
    }

    fn is_global(&self, b: usize, i: usize) -> bool {
        self.global[b % self.global.len()].get(i..i + 1) == 1
    }
}

/// The projections of global tokens.
#[derive(Clone, Copy, Debug)]
pub struct Global<'a, T = f32> {
    /// `[B, T, H, D]`
    pub q: ArrayView4<'a, T>,
    /// `[B, T, G, D]`
    pub k: ArrayView4<'a, T>,
    /// `[B, T, G, E]`
    pub v: ArrayView4<'a, T>,
}

/// The gradients to both sets of projections.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// To the ordinary ones.
    pub local: Gradient,
    /// To those of global tokens.
    pub global: Gradient,
}

/// The tokens of a row that belong together: all of them, or those of each packed sequence.
fn texts(sequences: Sequences<'_>, batch: usize, tokens: usize) -> Result<Vec<Range<usize>>, Error> {
    match sequences {
        Sequences::Batch => Ok(std::iter::once(0..tokens).collect()),
        packed => packed.ranges(OP, batch, tokens),
    }
}

/// Global queries of some tokens, gathered: `[B, most of a sequence]` positions, and whether each is there.
struct Gathered {
    /// The tokens that they see.
    tokens: Range<usize>,
    positions: Array2<usize>,
    there: Array2<bool>,
}

impl Gathered {
    /// Of all sequences of a batch at once, or of one packed sequence after the other.
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

    /// What these queries see.
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

fn check<T>(x: &Inputs<'_, T>, pattern: &Longformer, global: &Global<'_, T>) -> Result<(), Error> {
    let none = x.offset == 0 && x.bias.is_none() && x.alibi.is_none() && x.sinks.is_none();
    error::parameter(OP, "offset, bias, alibi or sinks", none, "given", "none with projections of global tokens")?;
    error::shape(OP, "global q", x.q.shape(), global.q.shape())?;
    error::shape(OP, "global k", x.k.shape(), global.k.shape())?;
    error::shape(OP, "global v", x.v.shape(), global.v.shape())?;
    super::Pattern::check(pattern, &x.sizes(OP)?.0)
}

/// Attention of all queries, the global ones with projections of their own.
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
    output: &Output,
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
        let lse = output.lse.view().insert_axis(ndarray::Axis(3));
        let part = Output {
            out: gathered.gather(output.out.view()),
            lse: gathered.gather(lse).index_axis_move(ndarray::Axis(3), 0),
        };
        let mut out = Array4::zeros((b, n, x.q.dim().2, x.v.dim().3));
        let mut lse = ndarray::Array3::zeros((b, n, x.q.dim().2));
        // What is not there has no gradient.
        for (b, n, i) in gathered.each() {
            out.slice_mut(s![b, n, .., ..]).assign(&d.out.slice(s![b, i, .., ..]));
            if let Some(d) = &d.lse {
                lse.slice_mut(s![b, n, ..]).assign(&d.slice(s![b, i, ..]));
            }
        }
        let d = Cotangent { out: out.view(), lse: Some(lse.view()) };
        let inputs = gathered.inputs(x, global, q.view());
        let got = super::backward(&inputs, &Dense { causal: false }, &part, &d, cx)?;
        for (b, n, i) in gathered.each() {
            all.q.slice_mut(s![b, i, .., ..]).assign(&got.q.slice(s![b, n, .., ..]));
        }
        all.k.slice_mut(s![.., gathered.tokens.clone(), .., ..]).assign(&got.k);
        all.v.slice_mut(s![.., gathered.tokens.clone(), .., ..]).assign(&got.v);
    }
    Ok(Gradients { local, global: all })
}
