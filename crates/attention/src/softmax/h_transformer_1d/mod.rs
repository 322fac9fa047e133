//! H-Transformer-1D: near tokens attend exactly; the farther apart they are, the coarser queries, keys and values are
//! pooled.
//!
//! At level `ℓ` a cell has `2^ℓ` tokens, and a block has `b` cells. Each pair of a query and a key interacts at one
//! level, the lowest at which their blocks are equal or adjacent, and is represented there by its cells: the mean of
//! the queries, the mean of the keys and the sum of the values,
//!
//! $$ o_i = \frac{\sum_\ell \sum_{n \in N_\ell(i)} e^{s\,\bar q_{\ell,i}^\top \bar k_{\ell,n}} \sum_{j \in n} v_j}
//!               {\sum_\ell \sum_{n \in N_\ell(i)} e^{s\,\bar q_{\ell,i}^\top \bar k_{\ell,n}}\, |n|} $$
//!
//! A cell's mean is that of its two halves, if both have tokens: with padding, halves count equally. In causal
//! attention the query of a cell is that of its first token, as in the authors' code, because a mean would see the
//! future. O(T b H D) time. Zhu and Soricut 2021, §4–5; the rules are those of the authors' code (flaxformer), without
//! its biases and with constant interpolation, its default.
//!
//! Each level is attention under its own pattern, with cells as tokens; the levels are merged by their log-sum-exp.
//! [`hierarchical`](super::hierarchical) pools only keys and values.

use longreach_simd::Cx;
use longreach_simd::product::Stored;
use ndarray::{Array2, Array3, Array4, ArrayView4, Axis, s};
use serde::Deserialize;

use super::merge::absorb;
use super::{Cotangent, Gradient, Inputs, Output, OutputView};
use crate::{Error, Sequences, error};

mod naive;
pub(crate) mod operation;
mod pattern;

pub use naive::naive;
use pattern::Level;

const OP: &str = "h_transformer_1d";

/// The parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HTransformer1d {
    /// `b`, cells per block, an even number: `N_r` of the paper
    #[serde(default = "sixteen")]
    pub block: usize,
    /// Whether attention is causal.
    #[serde(default)]
    pub causal: bool,
}

fn sixteen() -> usize {
    16
}

impl HTransformer1d {
    fn check<T, F: Copy + Into<f64>>(&self, x: &Inputs<'_, T, F>) -> Result<(), Error> {
        let (of, _) = x.sizes(OP)?;
        let even = self.block > 0 && self.block.is_multiple_of(2);
        error::parameter(OP, "block", even, self.block, "an even number, at least 2")?;
        let square = of.queries == (0..of.keys);
        error::parameter(OP, "queries", square, &of.queries, format!("those of all {} keys", of.keys))?;
        let plain = x.bias.is_none() && x.alibi.is_none() && x.sinks.is_none() && x.weights.is_none();
        let plain = plain && matches!(x.sequences, Sequences::Batch);
        error::parameter(OP, "bias, alibi, sinks, weights or packed sequences", plain, "given", "none")
    }

    /// The highest level: the one at which two blocks cover all cells.
    fn top(&self, tokens: usize) -> u32 {
        let mut level = 0;
        while tokens.div_ceil(1 << level) > self.block.saturating_mul(2) {
            level += 1;
        }
        level
    }

    fn pattern(&self, level: u32) -> Level {
        Level { block: self.block, finest: level == 0, causal: self.causal }
    }
}

/// The weights of the two halves of each cell in its mean, `[B, cells]`.
type Shares = Array2<[f32; 2]>;

/// The cells of a level above the tokens.
struct Cells {
    q: Array4<f32>,
    k: Array4<f32>,
    /// Means rather than sums: `weights` restores how often each counts.
    v: Array4<f32>,
    /// The logarithm of each cell's number of tokens, and whether it has any, `[B, cells]`
    weights: Array2<f32>,
    keep: Array2<bool>,
    /// The weights with which queries, keys and values were pooled from the level below.
    shares: [Shares; 3],
}

impl Cells {
    /// All levels above the tokens, lowest first.
    fn pyramid<T: Stored>(x: &Inputs<'_, T>, of: &HTransformer1d, cx: &Cx) -> Vec<Self> {
        let (batch, tokens, _, _) = x.q.dim();
        let mut count = Array2::from_shape_fn((batch, tokens), |(b, t)| {
            f32::from(u8::from(x.keep.is_none_or(|keep| keep[[b, t]])))
        });
        let mut levels: Vec<Self> = Vec::new();
        for _ in 0..of.top(tokens) {
            let cells = count.len_of(Axis(1)).div_ceil(2);
            let half = |b: usize, n: usize| count.get([b, n]).copied().unwrap_or(0.0);
            let halves = Array2::from_shape_fn((batch, cells), |(b, n)| [half(b, 2 * n), half(b, 2 * n + 1)]);
            let means = halves.mapv(|halves| normalised(halves.map(|count| f32::from(u8::from(count > 0.0)))));
            let values = halves.mapv(normalised);
            let queries = if of.causal { halves.mapv(|_| [1.0, 0.0]) } else { means.clone() };
            let sums = halves.mapv(|[a, b]| a + b);
            let shares = [queries, means, values];
            let [q, k, v] = match levels.last() {
                None => [pool(x.q, &shares[0], cx), pool(x.k, &shares[1], cx), pool(x.v, &shares[2], cx)],
                Some(below) => {
                    let views = [below.q.view(), below.k.view(), below.v.view()];
                    [0, 1, 2].map(|i| pool(views[i], &shares[i], cx))
                }
            };
            let (weights, keep) = (sums.mapv(|c| c.max(1.0).ln()), sums.mapv(|c| c > 0.0));
            levels.push(Self { q, k, v, weights, keep, shares });
            count = sums;
        }
        levels
    }

    fn inputs<T>(&self, x: &Inputs<'_, T>) -> Inputs<'_> {
        Inputs {
            softcap: x.softcap,
            weights: Some(self.weights.view()),
            keep: Some(self.keep.view()),
            ..Inputs::scaled(self.q.view(), self.k.view(), self.v.view(), x.scale)
        }
    }
}

/// Normalises a pair of weights.
fn normalised([a, b]: [f32; 2]) -> [f32; 2] {
    if a + b > 0.0 { [a / (a + b), b / (a + b)] } else { [0.0, 0.0] }
}

/// Cells per task.
const CELLS: usize = 64;

/// `[B, T, H, D]` to `[B, ⌈T / 2⌉, H, D]`.
fn pool<T: Stored>(x: ArrayView4<'_, T>, shares: &Shares, cx: &Cx) -> Array4<f32> {
    let (b, t, h, d) = x.dim();
    let mut out = Array4::zeros((b, shares.len_of(Axis(1)), h, d));
    let tasks: Vec<_> = out.axis_chunks_iter_mut(Axis(1), CELLS).enumerate().collect();
    cx.team.for_each(tasks, |(task, mut out)| {
        for (b, mut rows) in out.outer_iter_mut().enumerate() {
            for (n, mut cell) in rows.outer_iter_mut().enumerate() {
                let n = task * CELLS + n;
                // Rows of zero weight may hold anything, even NaN.
                for (half, share) in shares[[b, n]].into_iter().enumerate().filter(|(_, share)| *share != 0.0) {
                    let token = x.slice(s![b, (2 * n + half).min(t - 1), .., ..]);
                    cell.zip_mut_with(&token, |cell, x| *cell += share * x.widen());
                }
            }
        }
    });
    out
}

/// The gradient of [`pool`], added to that of the level below.
fn pool_backward(d: &Array4<f32>, shares: &Shares, to: &mut Array4<f32>, cx: &Cx) {
    let tasks: Vec<_> = to.axis_chunks_iter_mut(Axis(1), 2 * CELLS).enumerate().collect();
    cx.team.for_each(tasks, |(task, mut to)| {
        for (b, mut rows) in to.outer_iter_mut().enumerate() {
            for (t, mut row) in rows.outer_iter_mut().enumerate() {
                let t = task * 2 * CELLS + t;
                let share = shares[[b, t / 2]][t % 2];
                row.scaled_add(share, &d.slice(s![b, t / 2, .., ..]));
            }
        }
    });
}

/// Attention of all queries. Errors on wrong shapes and parameters.
pub fn chunk<T: Stored>(x: &Inputs<'_, T>, of: &HTransformer1d, cx: &Cx) -> Result<Output, Error> {
    of.check(x)?;
    let mut all = super::chunk(x, &of.pattern(0), cx)?;
    for (level, cells) in (1..).zip(Cells::pyramid(x, of, cx)) {
        let part = super::chunk(&cells.inputs(x), &of.pattern(level), cx)?;
        absorb(&mut all, &part, level, cx);
    }
    Ok(all)
}

/// The gradient, as [`softmax::backward`](super::backward).
pub fn backward<T: Stored>(
    x: &Inputs<'_, T>,
    of: &HTransformer1d,
    output: OutputView<'_>,
    d: &Cotangent<'_>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    of.check(x)?;
    let mut gradient = super::backward(x, &of.pattern(0), output, d, cx)?;
    let levels = Cells::pyramid(x, of, cx);
    let mut above: Option<Gradient> = None;
    for (level, cells) in (1..).zip(&levels).collect::<Vec<_>>().into_iter().rev() {
        let (x, pattern) = (cells.inputs(x), of.pattern(level));
        let part = super::chunk(&x, &pattern, cx)?;
        let (dout, dlse) = cell_cotangents(&part, output, d, level, cx);
        let d = Cotangent { out: dout.view(), lse: Some(dlse.view()) };
        let mut own = super::backward(&x, &pattern, part.view(), &d, cx)?;
        if let Some(above) = above {
            spread_all(&above, &levels[level as usize].shares, &mut own, cx);
        }
        above = Some(own);
    }
    if let Some(above) = above {
        spread_all(&above, &levels[0].shares, &mut gradient, cx);
    }
    Ok(gradient)
}

fn spread_all(from: &Gradient, [q, k, v]: &[Shares; 3], to: &mut Gradient, cx: &Cx) {
    pool_backward(&from.q, q, &mut to.q, cx);
    pool_backward(&from.k, k, &mut to.k, cx);
    pool_backward(&from.v, v, &mut to.v, cx);
}

/// The gradients of the output and the log-sum-exp of a level's cells, from those of all tokens.
///
/// A token receives the fraction `w = e^{lse_cell − lse_token}` of its cell's output, so that the gradient of a cell's
/// scores is `Σ w p (do · v − do · o + dlse)` over its tokens: that of attention whose output has the gradient
/// `Σ w do`.
fn cell_cotangents(
    part: &Output,
    all: OutputView<'_>,
    d: &Cotangent<'_>,
    level: u32,
    cx: &Cx,
) -> (Array4<f32>, Array3<f32>) {
    let (mut dout, mut dlse) = (Array4::<f32>::zeros(part.out.dim()), Array3::<f32>::zeros(part.lse.dim()));
    let (tokens, size) = (all.lse.len_of(Axis(1)), 1usize << level);
    let tasks = dout.axis_chunks_iter_mut(Axis(1), CELLS).zip(dlse.axis_chunks_iter_mut(Axis(1), CELLS)).enumerate();
    cx.team.for_each(tasks.collect::<Vec<_>>(), |(task, (mut dout, mut dlse))| {
        for ((b, n, h), dlse) in dlse.indexed_iter_mut() {
            let cell = task * CELLS + n;
            let own = part.lse[[b, cell, h]];
            if own == f32::NEG_INFINITY {
                continue;
            }
            let mut to = dout.slice_mut(s![b, n, h, ..]);
            for t in cell * size..((cell + 1) * size).min(tokens) {
                let weight = (own - all.lse[[b, t, h]]).exp();
                let d_out = d.out.slice(s![b, t, h, ..]);
                to.scaled_add(weight, &d_out);
                let d_lse = d.lse.map_or(0.0, |lse| lse[[b, t, h]]);
                *dlse += weight * (d_lse - d_out.dot(&all.out.slice(s![b, t, h, ..])));
            }
            *dlse += to.dot(&part.out.slice(s![b, cell, h, ..]));
        }
    });
    (dout, dlse)
}
