//! Factorised attention: a local set of keys, and a summary of distant ones.
//!
//! Strided, with stride `l`:
//! $$ A^{(1)}(i) = \{ j : i - l < j \le i \}, \qquad A^{(2)}(i) = \{ j \le i : l \mid i - j \} $$
//! Fixed, with stride `l`, `c` summary columns and `p` positions for them, between which heads alternate:
//! $$ A^{(1)}(i) = \{ j \le i : \lfloor j/l \rfloor = \lfloor i/l \rfloor \}, \qquad
//!    A^{(2)}(i) = \{ j \le i : l - (n+1)c \le j \bmod l < l - nc \},\ n = h \bmod p $$
//!
//! O(T √T H D) time with `l ≈ √T`. The distances are those of the authors' code, where a window of `l` has `l` keys.
//! Child et al. 2019 (Sparse Transformers), §4.2–4.3 and §5.2 for `Which`.

use longreach_simd::Cx;
use longreach_simd::product::Stored;
use serde::Deserialize;

use super::band::Band;
use super::phases::{self, Steps};
use super::{Cotangent, Gradient, Inputs, Output, OutputView, Pattern, merge};
use crate::Error;

mod naive;
pub(crate) mod operation;
mod pattern;

/// Which of the two sets a head attends to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// The union of both.
    #[default]
    Merged,
    /// The first: local keys.
    Near,
    /// The second: the summary.
    Far,
    /// Heads alternate: even ones local, odd ones the summary.
    Alternating,
}

/// The factorisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum SparseTransformer {
    /// Every `stride`th key back from the query.
    Strided {
        /// `l`
        stride: usize,
        /// Which sets a head attends to.
        #[serde(default)]
        which: Which,
    },
    /// The last keys of every window.
    Fixed {
        /// `l`
        stride: usize,
        /// `c`
        #[serde(default = "one")]
        columns: usize,
        /// `p`
        #[serde(default = "one")]
        positions: usize,
        /// Which sets a head attends to.
        #[serde(default)]
        which: Which,
    },
}

fn one() -> usize {
    1
}

const OP: &str = "sparse_transformer";

/// A pass over the heads: the pattern of each.
type Pass = Box<dyn Fn(usize) -> Steps>;

/// The passes of a strided pattern: the local band, and the phases of the stride. With both, the summary starts one
/// step back, because a query itself is in the local set.
fn passes(stride: usize, which: Which) -> Vec<Pass> {
    let far = stride.min(isize::MAX as usize) as isize;
    let near = Steps { band: Band { name: OP, nearest: 0, farthest: far - 1 }, dilation: 1 };
    let far = move |nearest| Steps { band: Band { name: OP, nearest, farthest: isize::MAX }, dilation: stride };
    match which {
        Which::Near => vec![Box::new(move |_| near)],
        Which::Far => vec![Box::new(move |_| far(0))],
        Which::Merged => vec![Box::new(move |_| near), Box::new(move |_| far(1))],
        Which::Alternating => vec![Box::new(move |h| if which.of(h).0 { near } else { far(0) })],
    }
}

/// The inputs of a pass: sinks count only in the first.
fn of_pass<'a, T: Copy>(x: &Inputs<'a, T>, pass: usize) -> Inputs<'a, T> {
    let mut x = *x;
    x.sinks = x.sinks.filter(|_| pass == 0);
    x
}

fn forward<T: Stored>(
    x: &Inputs<'_, T>,
    pattern: &SparseTransformer,
    kernel: fn(&Inputs<'_, T>, &dyn Pattern, &Cx) -> Result<Output, Error>,
    cx: &Cx,
) -> Result<Output, Error> {
    pattern.check(&x.sizes(OP)?.0)?;
    let SparseTransformer::Strided { stride, which } = *pattern else { return kernel(x, pattern, cx) };
    let passes = passes(stride, which).into_iter().enumerate();
    let parts: Result<Vec<_>, _> =
        passes.map(|(n, steps)| phases::forward(OP, &of_pass(x, n), &*steps, kernel, cx)).collect();
    merge(OP, parts?, cx)
}

/// Attention of all queries. Errors on wrong shapes and parameters.
pub fn chunk<T: Stored>(x: &Inputs<'_, T>, pattern: &SparseTransformer, cx: &Cx) -> Result<Output, Error> {
    forward(x, pattern, super::chunk, cx)
}

/// As [`chunk`], for few queries against a long KV cache.
pub fn step<T: Stored>(x: &Inputs<'_, T>, pattern: &SparseTransformer, cx: &Cx) -> Result<Output, Error> {
    forward(x, pattern, super::step, cx)
}

/// The gradient, as [`softmax::backward`](super::backward).
pub fn backward<T: Stored>(
    x: &Inputs<'_, T>,
    pattern: &SparseTransformer,
    output: OutputView<'_>,
    d: &Cotangent<'_>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    pattern.check(&x.sizes(OP)?.0)?;
    let SparseTransformer::Strided { stride, which } = *pattern else {
        return super::backward(x, pattern, output, d, cx);
    };
    let passes = passes(stride, which);
    let mut sum = phases::backward(OP, x, &*passes[0], output, d, cx)?;
    for steps in &passes[1..] {
        sum.add(&phases::backward(OP, &of_pass(x, 1), &**steps, output, d, cx)?, cx);
    }
    Ok(sum)
}
