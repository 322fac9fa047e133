//! Hierarchical pooling: near keys are attended to exactly, farther ones as means of more and more keys.
//!
//! The sequence is split into blocks of `b` tokens, the leaves of a binary tree. A query attends to the keys of its own
//! block, and at every level `ℓ` to the sibling of its own subtree as `b` means of `2^ℓ` keys and values each. Thus
//! every key is attended to once, alone or in a mean, and a mean counts as often as it has keys:
//!
//! $$ o_i = \sum_{n \in N(i)} \frac{c_n e^{s\,q_i^\top \bar k_n}}{\sum_m c_m e^{s\,q_i^\top \bar k_m}} \bar v_n $$
//!
//! O(T b log(T / b) H D) time. After Zhu and Soricut 2021 (H-Transformer-1D), a different mechanism: there queries are
//! pooled as well, and adjacent blocks interact at a finer level ([`h_transformer_1d`](super::h_transformer_1d)).

use std::ops::Range;

use longreach_simd::Cx;
use longreach_simd::product::Stored;
use ndarray::{Array1, Array2, Array3, Array4, ArrayView4, ArrayViewMut4, Axis, s};
use serde::Deserialize;

use super::{Cotangent, Gradient, Inputs, Output, OutputView, Sizes, packed_sequences};
use crate::{Error, error};

mod naive;
pub(crate) mod operation;
mod pattern;

pub use naive::naive;
use pattern::Tree;

const OP: &str = "hierarchical";

/// The parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hierarchical {
    /// `b`, tokens per block: a multiple of 16
    #[serde(default = "sixty_four")]
    pub block: usize,
    /// Whether attention is causal.
    #[serde(default)]
    pub causal: bool,
}

fn sixty_four() -> usize {
    64
}

impl Hierarchical {
    /// Checks a call without packed sequences. Returns its sizes, and the parameters with a block no longer than the
    /// sequence.
    fn check<T, F: Copy + Into<f64>>(&self, x: &Inputs<'_, T, F>) -> Result<(Sizes, Self), Error> {
        let (sizes, _) = x.sizes(OP)?;
        error::parameter(OP, "block", self.block > 0 && self.block.is_multiple_of(16), self.block, "a multiple of 16")?;
        sizes.within(OP)?;
        let plain = x.bias.is_none() && x.alibi.is_none() && x.weights.is_none();
        error::parameter(OP, "bias, alibi or weights", plain, "given", "none")?;
        let block = self.block.min(sizes.keys.next_multiple_of(16).max(16));
        Ok((sizes, Self { block, ..*self }))
    }
}

/// The pooled levels of all sequences: how many tokens each node represents.
struct Levels {
    tree: Tree,
    /// The number of unmasked tokens of each sequence and node.
    count: Array2<f32>,
    /// Its logarithm, and whether it is not zero.
    weights: Array2<f32>,
    keep: Array2<bool>,
}

impl Levels {
    fn of<T, F: Copy + Into<f64>>(x: &Inputs<'_, T, F>, of: &Hierarchical) -> Result<(Self, Sizes), Error> {
        let (sizes, of) = of.check(x)?;
        let tree = Tree::new(sizes.keys, of);
        let mut count = Array2::<f32>::zeros((sizes.batch, tree.nodes()));
        for ((b, t), count) in count.slice_mut(s![.., ..sizes.keys]).indexed_iter_mut() {
            *count = f32::from(u8::from(x.keep.as_ref().is_none_or(|keep| keep[[b, t]])));
        }
        for (node, [left, right]) in tree.parents() {
            for mut count in count.outer_iter_mut() {
                count[node] = [left, right].into_iter().flatten().map(|child| count[child]).sum();
            }
        }
        let (weights, keep) = (count.mapv(|c| c.max(1.0).ln()), count.mapv(|c| c > 0.0));
        Ok((Self { tree, count, weights, keep }, sizes))
    }

    /// The weight of a child in its parent's mean.
    fn share(&self, b: usize, child: usize, parent: usize) -> f32 {
        if self.keep[[b, parent]] { self.count[[b, child]] / self.count[[b, parent]] } else { 0.0 }
    }

    /// Pools the tokens of a group level by level: `[B, S, G, D]` to `[B, nodes, 1, D]`.
    fn pool<T: Stored>(&self, x: ArrayView4<'_, T>, g: usize, out: &mut Array4<f32>) {
        let (b, tokens, _, d) = x.dim();
        let out = out.as_slice_mut().unwrap_or_default();
        for (b, nodes) in out.chunks_mut((self.tree.nodes() * d).max(1)).enumerate().take(b) {
            let of_group = x.slice_move(s![b, .., g, ..]);
            for (t, (node, token)) in nodes.chunks_mut(d).zip(of_group.rows()).enumerate() {
                match token.as_slice().filter(|_| self.keep[[b, t]]) {
                    Some(token) => node.iter_mut().zip(token).for_each(|(node, x)| *node = x.widen()),
                    None if self.keep[[b, t]] => node.iter_mut().zip(token).for_each(|(node, x)| *node = x.widen()),
                    None => node.fill(0.0),
                }
            }
            nodes[tokens * d..self.tree.first_mean() * d].fill(0.0);
            for (parent, children) in self.tree.parents() {
                let (below, mean) = nodes.split_at_mut(parent * d);
                mean[..d].fill(0.0);
                for child in children.into_iter().flatten().filter(|child| self.keep[[b, *child]]) {
                    let share = self.share(b, child, parent);
                    mean[..d].iter_mut().zip(&below[child * d..]).for_each(|(mean, x)| *mean += share * x);
                }
            }
        }
    }

    /// The backward pass of [`Levels::pool`] for a group: from `[B, nodes, 1, D]` to its part of `[B, S, G, D]`.
    fn pool_backward(&self, mut d: Array4<f32>, g: usize, mut to: ArrayViewMut4<'_, f32>) {
        let (b, n, _, width) = d.dim();
        let parents: Vec<_> = self.tree.parents().collect();
        for b in 0..b {
            let nodes = &mut d.as_slice_mut().unwrap_or_default()[b * n * width..(b + 1) * n * width];
            for (parent, children) in parents.iter().rev() {
                let (below, above) = nodes.split_at_mut(parent * width);
                for child in children.iter().flatten().filter(|child| self.keep[[b, **child]]) {
                    let share = self.share(b, *child, *parent);
                    let child = &mut below[child * width..(child + 1) * width];
                    child.iter_mut().zip(&above[..width]).for_each(|(child, d)| *child += share * d);
                }
            }
            let tokens = to.len_of(Axis(1));
            to.slice_mut(s![b, .., g, ..]).assign(&d.slice(s![b, ..tokens, 0, ..]));
        }
    }

    /// A group's softmax inputs.
    fn inputs<'a, T>(&'a self, x: &'a Inputs<'_, T>, of: &'a Group) -> Inputs<'a> {
        Inputs {
            offset: x.offset,
            softcap: x.softcap,
            sinks: x.sinks.as_ref().map(|sinks| sinks.slice(s![of.heads.clone()])),
            weights: Some(self.weights.view()),
            keep: Some(self.keep.view()),
            ..Inputs::scaled(of.q.view(), of.k.view(), of.v.view(), x.scale)
        }
    }

    /// Pools a group. Groups are processed one by one, so that only one group's nodes are in memory.
    fn pool_group<T: Stored>(&self, x: &Inputs<'_, T>, g: usize, of: &mut Group, cx: &Cx) {
        let per_group = of.q.len_of(Axis(2));
        of.heads = g * per_group..(g + 1) * per_group;
        let (q, k, v) = (&mut of.q, &mut of.k, &mut of.v);
        let tasks: [Box<dyn FnOnce() + Send>; 3] = [
            Box::new(|| q.zip_mut_with(&x.q.slice(s![.., .., of.heads.clone(), ..]), |q, x| *q = x.widen())),
            Box::new(|| self.pool(x.k, g, k)),
            Box::new(|| self.pool(x.v, g, v)),
        ];
        cx.team.for_each(tasks, |task| task());
    }
}

/// The queries of the heads that share keys, and those keys and values with their means.
struct Group {
    heads: Range<usize>,
    q: Array4<f32>,
    k: Array4<f32>,
    v: Array4<f32>,
}

impl Group {
    /// Buffers for one group.
    fn new<T>(x: &Inputs<'_, T>, levels: &Levels) -> Self {
        let ((b, t, h, d), e) = (x.q.dim(), x.v.dim().3);
        let [q, k, v] = [(t, h / x.k.dim().2, d), (levels.tree.nodes(), 1, d), (levels.tree.nodes(), 1, e)]
            .map(|(n, h, d)| super::tile::zeros((b, n, h, d)));
        Self { heads: 0..0, q, k, v }
    }
}

/// Copies the heads of a group to their place in the output.
fn put(from: &Array4<f32>, heads: Range<usize>, to: &mut Array4<f32>, cx: &Cx) {
    const TOKENS: usize = 256;
    let to = to.axis_chunks_iter_mut(Axis(1), TOKENS).zip(from.axis_chunks_iter(Axis(1), TOKENS));
    cx.team.for_each(to.collect::<Vec<_>>(), |(mut to, from)| {
        to.slice_mut(s![.., .., heads.clone(), ..]).assign(&from);
    });
}

/// Attention of all queries; packed sequences are processed one by one. Errors on wrong shapes and parameters.
pub fn chunk<T: Stored>(x: &Inputs<'_, T>, of: &Hierarchical, cx: &Cx) -> Result<Output, Error> {
    packed_sequences::forward(OP, x, |x| together(x, of, cx))
}

/// Attention of a batch without packed sequences.
fn together<T: Stored>(x: &Inputs<'_, T>, of: &Hierarchical, cx: &Cx) -> Result<Output, Error> {
    let (levels, Sizes { batch, heads, .. }) = Levels::of(x, of)?;
    let (t, groups, e) = (x.q.len_of(Axis(1)), x.k.len_of(Axis(2)), x.v.len_of(Axis(3)));
    let mut all = Output { out: super::tile::zeros((batch, t, heads, e)), lse: Array3::zeros((batch, t, heads)) };
    let mut group = Group::new(x, &levels);
    for g in 0..groups {
        levels.pool_group(x, g, &mut group, cx);
        let output = super::chunk(&levels.inputs(x, &group), &levels.tree, cx)?;
        put(&output.out, group.heads.clone(), &mut all.out, cx);
        all.lse.slice_mut(s![.., .., group.heads.clone()]).assign(&output.lse);
    }
    Ok(all)
}

/// The gradient, as [`softmax::backward`](super::backward).
pub fn backward<T: Stored>(
    x: &Inputs<'_, T>,
    of: &Hierarchical,
    output: OutputView<'_>,
    d: &Cotangent<'_>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    packed_sequences::backward(OP, x, output, d, |x, output, d| backward_together(x, of, output, d, cx))
}

fn backward_together<T: Stored>(
    x: &Inputs<'_, T>,
    of: &Hierarchical,
    output: OutputView<'_>,
    d: &Cotangent<'_>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    let (levels, _) = Levels::of(x, of)?;
    let [q, k, v] = [x.q.dim(), x.k.dim(), x.v.dim()].map(super::tile::zeros);
    let mut all = Gradient { q, k, v, sinks: x.sinks.map(|sinks| Array1::zeros(sinks.len())), bias: None };
    error::shape(OP, "output", &[x.q.dim().0, x.q.dim().1, x.q.dim().2, x.v.dim().3], output.out.shape())?;
    error::shape(OP, "lse", &output.out.shape()[..3], output.lse.shape())?;
    error::shape(OP, "d out", output.out.shape(), d.out.shape())?;
    if let Some(lse) = &d.lse {
        error::shape(OP, "d lse", output.lse.shape(), lse.shape())?;
    }
    let mut group = Group::new(x, &levels);
    for g in 0..x.k.len_of(Axis(2)) {
        levels.pool_group(x, g, &mut group, cx);
        let heads = group.heads.clone();
        let of = |x: ArrayView4<'_, f32>| x.slice(s![.., .., heads.clone(), ..]).as_standard_layout().into_owned();
        let output = Output { out: of(output.out), lse: output.lse.slice(s![.., .., heads.clone()]).to_owned() };
        let (dout, dlse) = (of(d.out), d.lse.map(|lse| lse.slice(s![.., .., heads.clone()]).to_owned()));
        let d = Cotangent { out: dout.view(), lse: dlse.as_ref().map(|lse| lse.view()) };
        let gradient = super::backward(&levels.inputs(x, &group), &levels.tree, output.view(), &d, cx)?;
        put(&gradient.q, heads.clone(), &mut all.q, cx);
        let tasks = [(gradient.k, &mut all.k), (gradient.v, &mut all.v)];
        cx.team.for_each(tasks, |(from, to)| levels.pool_backward(from, g, to.view_mut()));
        if let (Some(all), Some(sinks)) = (&mut all.sinks, gradient.sinks) {
            all.slice_mut(s![heads]).assign(&sinks);
        }
    }
    Ok(all)
}
