//! A dilated window: a query sees every `δ`th key within its window, and heads may differ in `δ`.
//!
//! $$ N(i) = \{ j : -r\delta \le i - j \le l\delta,\ \delta \mid i - j \} $$
//!
//! The tokens of a phase, those with the same remainder by `δ`, are a sequence of their own with a plain window: [`chunk`], [`step`] and
//! [`backward`] run it without gaps, at O(T (l + r + 1) H D). As a [`Pattern`] it is for looking at, and for the definition.
//! Beltagy et al. 2020 (Longformer), §3.1.

use longreach_simd::Cx;
use longreach_simd::product::Stored;
use serde::Deserialize;

use super::band::Band;
use super::phases::{self, Steps};
use super::{Cotangent, Gradient, Inputs, Output, Pattern};
use crate::Error;

mod naive;
mod pattern;

/// The pattern.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dilated {
    /// How far back a query sees, in steps of the dilation.
    pub left: usize,
    /// How far ahead it sees, in steps of the dilation.
    #[serde(default)]
    pub right: usize,
    /// The distance of the keys it sees: one for all heads, or one for each.
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

/// Attention of all queries.
pub fn chunk<T: Stored>(x: &Inputs<'_, T>, pattern: &Dilated, cx: &Cx) -> Result<Output, Error> {
    pattern.check(x)?;
    phases::forward(OP, x, &|h| pattern.steps(h), super::chunk, cx)
}

/// The same for few queries against a long cache.
pub fn step<T: Stored>(x: &Inputs<'_, T>, pattern: &Dilated, cx: &Cx) -> Result<Output, Error> {
    pattern.check(x)?;
    phases::forward(OP, x, &|h| pattern.steps(h), super::step, cx)
}

/// The gradient, as [`softmax::backward`](super::backward).
pub fn backward<T: Stored>(
    x: &Inputs<'_, T>,
    pattern: &Dilated,
    output: &Output,
    d: &Cotangent<'_>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    pattern.check(x)?;
    phases::backward(OP, x, &|h| pattern.steps(h), output, d, cx)
}
