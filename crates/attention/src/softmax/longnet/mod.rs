//! LongNet: dilated segments of increasing length, mixed by their log-sum-exp.
//!
//! A branch `(w, r)` splits the sequence into segments of `w` tokens and keeps every `r`th token of each, starting at
//! `⌊h r / H⌋`: the offsets differ between heads. Attention inside a sparsified segment is dense. Branches are mixed as
//! if by one softmax over all their keys:
//!
//! $$ o_i = \sum_n \frac{e^{\mathrm{lse}_{n,i}}}{\sum_m e^{\mathrm{lse}_{m,i}}} o_{n,i} $$
//!
//! so a key in two branches counts twice, and a token that a branch does not keep receives nothing from it. O(T H D Σ w
//! / r) time. Ding et al. 2023, eq. 3–11; the offsets are torchscale's.
//!
//! The gradient is exact; torchscale treats the mixing weights as constants, as [`Mixture::Detached`] does. Positions
//! past the end of a partial last segment are not keys; torchscale pads them with zeros, which count where attention is
//! not causal.

use longreach_simd::Cx;
use longreach_simd::product::Stored;
use ndarray::{Array3, Array4, Axis, Zip};
use serde::Deserialize;

use super::gather::Places;
use super::mask::{Bits, Sizes};
use super::{Cotangent, Gradient, Inputs, Output, OutputView, Pattern, merge, packed_sequences};
use crate::{Error, error};

mod naive;
pub(crate) mod operation;
mod pattern;

pub use naive::naive;
use pattern::Segments;

const OP: &str = "longnet";

/// The parameters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongNet {
    /// `w` of each branch.
    pub segments: Vec<usize>,
    /// `r` of each branch.
    pub dilations: Vec<usize>,
    /// Whether attention is causal.
    #[serde(default)]
    pub causal: bool,
    /// How the gradient treats the mixing weights.
    #[serde(default)]
    pub gradient: Mixture,
}

/// How the gradient treats the weights that mix the branches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mixture {
    /// As functions of the scores: the exact gradient.
    #[default]
    Exact,
    /// As constants, as torchscale does.
    Detached,
}

impl LongNet {
    fn branches(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.segments.iter().copied().zip(self.dilations.iter().copied())
    }

    /// Checks a call without packed sequences.
    fn check<T, F: Copy + Into<f64>>(&self, x: &Inputs<'_, T, F>) -> Result<Sizes, Error> {
        let (of, _) = x.sizes(OP)?;
        error::some(OP, [("H", of.heads)])?;
        Pattern::check(self, &of)?;
        let plain = x.bias.is_none() && x.alibi.is_none() && x.sinks.is_none() && x.weights.is_none();
        error::parameter(OP, "bias, alibi, sinks or weights", plain, "given", "none")?;
        Ok(of)
    }
}

/// A branch: the token at each place of each head, and the pattern over places.
struct Branch {
    places: Places,
    pattern: Segments,
}

impl Branch {
    fn of<T>(x: &Inputs<'_, T>, of: &Sizes, (w, r): (usize, usize), causal: bool) -> Self {
        let w = w.min(of.keys).max(1);
        let kept = w.div_ceil(r);
        let shape = (of.batch, of.heads, of.keys.div_ceil(w) * kept);
        let places = Places(Array3::from_shape_fn(shape, |(_, h, n)| {
            let (segment, place) = (n / kept, n % kept * r + naive::offset(h, of.heads, r));
            Some(segment * w + place).filter(|t| place < w && *t < of.keys)
        }));
        let there =
            |b: usize, token: Option<usize>| token.is_some_and(|t| x.keep.as_ref().is_none_or(|keep| keep[[b, t]]));
        let rows = places.0.lanes(Axis(2)).into_iter().enumerate();
        let there = rows.map(|(n, row)| Bits::of(row.iter().map(|token| there(n / of.heads, *token)))).collect();
        Self { places, pattern: Segments { size: kept, causal, heads: of.heads, there } }
    }

    fn take<T: Stored>(&self, x: &Inputs<'_, T>, cx: &Cx) -> [Array4<f32>; 3] {
        [self.places.gather(x.q, cx), self.places.gather(x.k, cx), self.places.gather(x.v, cx)]
    }
}

fn inputs<'a, T>(x: &Inputs<'_, T>, taken: &'a [Array4<f32>; 3]) -> Inputs<'a> {
    let [q, k, v] = taken;
    Inputs { softcap: x.softcap, ..Inputs::scaled(q.view(), k.view(), v.view(), x.scale) }
}

/// Attention of all queries; packed sequences are processed one by one. Errors on wrong shapes and parameters.
pub fn chunk<T: Stored>(x: &Inputs<'_, T>, longnet: &LongNet, cx: &Cx) -> Result<Output, Error> {
    packed_sequences::forward(OP, x, |x| together(x, longnet, cx))
}

/// Attention of a batch without packed sequences.
fn together<T: Stored>(x: &Inputs<'_, T>, longnet: &LongNet, cx: &Cx) -> Result<Output, Error> {
    let of = longnet.check(x)?;
    let mut parts = Vec::new();
    for branch in longnet.branches() {
        let branch = Branch::of(x, &of, branch, longnet.causal);
        let taken = branch.take(x, cx);
        let part = super::chunk(&inputs(x, &taken), &branch.pattern, cx)?;
        let (b, t, h, _) = x.q.dim();
        let mut out = Array4::zeros((b, t, h, x.v.dim().3));
        let mut lse = Array3::from_elem((b, t, h), f32::NEG_INFINITY);
        branch.places.scatter(&part.out, &mut out, cx);
        branch.places.scatter_rows(&part.lse, &mut lse, cx);
        parts.push(Output { out, lse });
    }
    merge(OP, parts, cx)
}

/// The gradient, as [`softmax::backward`](super::backward).
pub fn backward<T: Stored>(
    x: &Inputs<'_, T>,
    longnet: &LongNet,
    output: OutputView<'_>,
    d: &Cotangent<'_>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    packed_sequences::backward(OP, x, output, d, |x, output, d| backward_together(x, longnet, output, d, cx))
}

fn backward_together<T: Stored>(
    x: &Inputs<'_, T>,
    longnet: &LongNet,
    output: OutputView<'_>,
    d: &Cotangent<'_>,
    cx: &Cx,
) -> Result<Gradient, Error> {
    let of = longnet.check(x)?;
    let (q, k, v) = (Array4::zeros(x.q.dim()), Array4::zeros(x.k.dim()), Array4::zeros(x.v.dim()));
    let mut gradient = Gradient { q, k, v, sinks: None, bias: None };
    for branch in longnet.branches() {
        let branch = Branch::of(x, &of, branch, longnet.causal);
        let taken = branch.take(x, cx);
        let mut part = Output { out: branch.places.gather(output.out, cx), lse: branch.places.gather_rows(output.lse) };
        let mut dout = branch.places.gather(d.out, cx);
        let mut dlse = d.lse.map(|lse| branch.places.gather_rows(lse));
        if longnet.gradient == Mixture::Detached {
            let own = super::chunk(&inputs(x, &taken), &branch.pattern, cx)?;
            let seen = own.lse.mapv(f32::is_finite);
            let weights = Zip::from(&own.lse)
                .and(&part.lse)
                .and(&seen)
                .map_collect(|own, all, seen| if *seen { (own - all).exp() } else { 0.0 });
            dout *= &weights.view().insert_axis(Axis(3));
            if let Some(dlse) = &mut dlse {
                *dlse *= &weights;
            }
            part = own;
        }
        let d = Cotangent { out: dout.view(), lse: dlse.as_ref().map(|lse| lse.view()) };
        let part = super::backward(&inputs(x, &taken), &branch.pattern, part.view(), &d, cx)?;
        branch.places.scatter_add(&part.q, &mut gradient.q, cx);
        branch.places.scatter_add(&part.k, &mut gradient.k, cx);
        branch.places.scatter_add(&part.v, &mut gradient.v, cx);
    }
    Ok(gradient)
}
