//! A dilated window: a query attends to every `δ`th key within its window; heads may differ in `δ`.
//!
//! $$ N(i) = \{ j : -r\delta \le i - j \le l\delta,\ \delta \mid i - j \} $$
//!
//! Tokens with the same remainder modulo `δ` form a phase, which is a sequence with an ordinary window. [`chunk`],
//! [`step`] and [`backward`] run the phases, without gaps, in O(T (l + r + 1) H D) time. Its [`Pattern`] serves for
//! pictures and for the definition.
//! Beltagy et al. 2020 (Longformer), §3.1.

use longreach_simd::Cx;
use longreach_simd::product::Stored;
use serde::Deserialize;

use super::band::Band;
use super::phases::{self, Steps};
use super::{Cotangent, Gradient, Inputs, Output, OutputView, Pattern};
use crate::Error;

mod naive;
pub(crate) mod operation;
mod pattern;

/// The pattern.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dilated {
    /// Keys to the left, in steps of the dilation.
    pub left: usize,
    /// Keys to the right, in steps of the dilation.
    #[serde(default)]
    pub right: usize,
    /// The distance between the keys: one for all heads, or one per head.
    pub dilation: Vec<usize>,
}

impl Dilated {
    fn steps(&self, h: usize) -> Steps {
        let [left, right] = [self.left, self.right].map(|n| n.min(isize::MAX as usize) as isize);
        let band = Band { name: OP, nearest: -right, farthest: left };
        Steps { band, dilation: self.dilation[h % self.dilation.len()] }
    }

    fn check<T>(&self, x: &Inputs<'_, T>) -> Result<(), Error> {
        Pattern::check(self, &x.sizes(OP)?.0)
    }
}

const OP: &str = "dilated";

/// Attention of all queries. Errors on wrong shapes and parameters.
pub fn chunk<T: Stored>(x: &Inputs<'_, T>, pattern: &Dilated, cx: &Cx) -> Result<Output, Error> {
    pattern.check(x)?;
    phases::forward(OP, x, &|h| pattern.steps(h), super::chunk, cx)
}

/// As [`chunk`], for few queries against a long KV cache.
pub fn step<T: Stored>(x: &Inputs<'_, T>, pattern: &Dilated, cx: &Cx) -> Result<Output, Error> {
    pattern.check(x)?;
    phases::forward(OP, x, &|h| pattern.steps(h), super::step, cx)
}

/// The gradient, as [`softmax::backward`](super::backward).
pub fn backward<T: Stored>(
    x: &Inputs<'_, T>,
    pattern: &Dilated,
    output: OutputView<'_>,
    d: &Cotangent<'_>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    pattern.check(x)?;
    phases::backward(OP, x, &|h| pattern.steps(h), output, d, cx)
}
