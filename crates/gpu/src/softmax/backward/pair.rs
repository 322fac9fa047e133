//! One pair of a query and a key: its probability, and the gradient of its score.
#![allow(missing_docs, reason = "what `#[cube]` writes has no docs")]

use cubecl::prelude::*;

use crate::softmax::call::{Scalars, With};
use crate::softmax::score::{HIDDEN, Place, score};

/// The probability of a visible pair, given the product of query and key, and the log-sum-exp of the query.
#[cube]
pub(super) fn probability(
    product: f32,
    log_weight: f32,
    lse: &[f32],
    bias: &[f32],
    alibi: &[f32],
    weights: &[f32],
    at: &Place,
    of: &Scalars,
    #[comptime] with: With,
) -> f32 {
    let value = score(product, bias, alibi, weights, at, of, with) + log_weight;
    let row = (at.b * of.t as usize + at.query) * of.h as usize + at.head;
    select(value <= HIDDEN, 0.0f32, f32::exp(value - lse[row]))
}

/// The gradient of the product of query and key, given that of the score.
#[cube]
pub(super) fn through(product: f32, ds: f32, of: &Scalars, #[comptime] with: With) -> f32 {
    let mut slope = of.scale;
    if comptime!(with.softcap) {
        let bent = f32::tanh(product * of.scale / of.softcap);
        slope *= 1.0f32 - bent * bent;
    }
    ds * slope
}
