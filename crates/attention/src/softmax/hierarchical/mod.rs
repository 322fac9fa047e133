//! A hierarchy of means: near keys one by one, far ones pooled, the coarser the farther.
//!
//! The sequence is cut into blocks of `b` tokens, and these are the leaves of a binary tree. A query sees the keys of its own block, and at every
//! level `ℓ` the subtree beside its own as `b` means of `2^ℓ` keys and values each. Every key so is seen once, alone or in a mean, and a mean
//! counts as often as it has keys:
//!
//! $$ o_i = \sum_{n \in N(i)} \frac{c_n e^{s\,q_i^\top \bar k_n}}{\sum_m c_m e^{s\,q_i^\top \bar k_m}} \bar v_n $$
//!
//! O(T b log(T / b) H D) time. Zhu and Soricut 2021 (H-Transformer-1D), §5; queries are not pooled here, and levels are
//! merged by one softmax.

use longreach_simd::Cx;
use longreach_simd::product::Stored;
use ndarray::{Array2, Array4, ArrayView4, Axis, s};
use serde::Deserialize;

use super::{Cotangent, Gradient, Inputs, Output, Sizes};
use crate::{Error, Sequences, error};

mod naive;
mod pattern;

pub use naive::naive;
use pattern::Tree;

const OP: &str = "hierarchical";

/// The parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hierarchical {
    /// `b`, tokens of a block: a multiple of 16
    #[serde(default = "sixty_four")]
    pub block: usize,
    /// Whether the future is hidden.
    #[serde(default)]
    pub causal: bool,
}

fn sixty_four() -> usize {
    64
}

impl Hierarchical {
    fn check<T, F>(&self, x: &Inputs<'_, T, F>) -> Result<Sizes, Error> {
        let (sizes, _) = x.sizes(OP)?;
        error::parameter(OP, "block", self.block > 0 && self.block.is_multiple_of(16), self.block, "a multiple of 16")?;
        let fits = sizes.queries.end <= sizes.keys;
        error::parameter(OP, "queries", fits, &sizes.queries, format!("positions among the {} keys", sizes.keys))?;
        let plain = x.bias.is_none() && x.alibi.is_none() && x.weights.is_none();
        let plain = plain && matches!(x.sequences, Sequences::Batch);
        error::parameter(OP, "bias, alibi, weights or packed sequences", plain, "given", "none")?;
        Ok(sizes)
    }
}

/// The levels: keys and values one by one, then their means, one level behind the other.
struct Levels {
    k: Array4<f32>,
    v: Array4<f32>,
    /// The logarithm of the tokens in each mean, and whether there are any.
    weights: Array2<f32>,
    keep: Array2<bool>,
    /// For every mean and sequence, one over its tokens.
    share: Array2<f32>,
    tree: Tree,
}

impl Levels {
    fn of<T: Stored>(x: &Inputs<'_, T>, of: &Hierarchical) -> Result<Self, Error> {
        let sizes = of.check(x)?;
        let tree = Tree::new(sizes.keys, *of);
        let (b, n) = (sizes.batch, tree.nodes());
        let mut count = Array2::<f32>::zeros((b, n));
        for ((b, node), count) in count.indexed_iter_mut() {
            let there = |t: &usize| x.keep.as_ref().is_none_or(|keep| keep[[b, *t]]);
            *count = tree.tokens(node).filter(there).count() as f32;
        }
        let share = count.mapv(|c| if c > 0.0 { 1.0 / c } else { 0.0 });
        let mut levels = Self {
            k: Array4::zeros((b, n, x.k.dim().2, x.k.dim().3)),
            v: Array4::zeros((b, n, x.v.dim().2, x.v.dim().3)),
            weights: count.mapv(|c| c.max(1.0).ln()),
            keep: count.mapv(|c| c > 0.0),
            share,
            tree,
        };
        let pool = |x: ArrayView4<'_, T>, to: &mut Array4<f32>, keep: Option<ndarray::ArrayView2<'_, bool>>| {
            for b in 0..b {
                for node in 0..n {
                    let share = levels.share[[b, node]];
                    for t in levels.tree.tokens(node).filter(|t| keep.is_none_or(|keep| keep[[b, *t]])) {
                        let mut to = to.slice_mut(s![b, node, .., ..]);
                        to.zip_mut_with(&x.slice(s![b, t, .., ..]), |to, x| *to += share * x.widen());
                    }
                }
            }
        };
        pool(x.k, &mut levels.k, x.keep);
        pool(x.v, &mut levels.v, x.keep);
        Ok(levels)
    }

    fn inputs<'a, T>(&'a self, x: &'a Inputs<'_, T>, q: ArrayView4<'a, f32>) -> Inputs<'a> {
        Inputs {
            offset: x.offset,
            softcap: x.softcap,
            sinks: x.sinks.as_ref().map(|sinks| sinks.view()),
            weights: Some(self.weights.view()),
            keep: Some(self.keep.view()),
            ..Inputs::scaled(q, self.k.view(), self.v.view(), x.scale)
        }
    }

    /// The gradient to the tokens from that to the means.
    fn spread(&self, d: &Array4<f32>, keys: usize, keep: Option<ndarray::ArrayView2<'_, bool>>) -> Array4<f32> {
        let (b, n, g, width) = d.dim();
        let mut out = Array4::zeros((b, keys, g, width));
        for b in 0..b {
            for node in 0..n {
                for t in self.tree.tokens(node).filter(|t| keep.is_none_or(|keep| keep[[b, *t]])) {
                    out.slice_mut(s![b, t, .., ..]).scaled_add(self.share[[b, node]], &d.slice(s![b, node, .., ..]));
                }
            }
        }
        out
    }
}

fn widen<T: Stored>(x: ArrayView4<'_, T>) -> Array4<f32> {
    x.mapv(|x| x.widen())
}

/// Attention of all queries.
pub fn chunk<T: Stored>(x: &Inputs<'_, T>, of: &Hierarchical, cx: &Cx) -> Result<Output, Error> {
    let (levels, q) = (Levels::of(x, of)?, widen(x.q));
    super::chunk(&levels.inputs(x, q.view()), &levels.tree, cx)
}

/// The gradient, as [`softmax::backward`](super::backward).
pub fn backward<T: Stored>(
    x: &Inputs<'_, T>,
    of: &Hierarchical,
    output: &Output,
    d: &Cotangent<'_>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    let (levels, q) = (Levels::of(x, of)?, widen(x.q));
    let gradient = super::backward(&levels.inputs(x, q.view()), &levels.tree, output, d, cx)?;
    let keys = x.k.len_of(Axis(1));
    let (k, v) = (levels.spread(&gradient.k, keys, x.keep), levels.spread(&gradient.v, keys, x.keep));
    Ok(Gradient { k, v, ..gradient })
}
