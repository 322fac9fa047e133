//! Linear attention: a feature map of queries and keys replaces the exponential of softmax.

use longreach_attention::Sequences;
pub use longreach_attention::linear::linear_attention::Map;

use super::features::{Call, Floor};
use crate::convert::{narrowed_to, widened};
use crate::device::Device;
use crate::error::Error;
use crate::formula::{Access, Formula, Sizes, formula};
use crate::view::View;

const OP: &str = "linear_attention";

/// The inputs, as in [`longreach_attention::linear::linear_attention`].
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `[B, T, G, K]`
    pub q: &'a View,
    /// `[B, T, G, K]`
    pub k: &'a View,
    /// `[B, T, H, V]`
    pub v: &'a View,
    /// The features.
    pub map: Map,
    /// `ε`; without it the output is not divided by the sum of the weights
    pub normalize: Option<f64>,
    /// Whether attention is causal.
    pub causal: bool,
    /// The factor of the features of queries.
    pub scale: f64,
    /// How tokens form sequences.
    pub sequences: Sequences<'a>,
}

/// Gradients to the inputs.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, G, K]`
    pub q: View,
    /// `[B, T, G, K]`
    pub k: View,
    /// `[B, T, H, V]`
    pub v: View,
    /// To the state before the first token
    pub state: View,
}

impl Inputs<'_> {
    fn call(&self) -> Call<'_> {
        let floor = self.normalize.map(|floor| Floor::Add(floor as f32));
        Call { op: OP, floor, causal: self.causal, scale: self.scale as f32, sequences: self.sequences }
    }
}

/// The width of a key, and rows of them.
fn rows(x: &View) -> (usize, usize) {
    let k = x.shape().last().copied().unwrap_or(0);
    (x.len() / k.max(1), k)
}

/// The factors of a channel and of a product of two.
fn factors(map: Map, k: usize) -> (f32, f32) {
    let channel = if map == Map::Based { (k as f32).powf(-0.25) } else { 1.0 };
    (channel, channel * channel * std::f32::consts::FRAC_1_SQRT_2)
}

/// The features of rows, in f32.
fn apply(device: &Device, map: Map, name: &'static str, x: &View) -> Result<View, Error> {
    let x = &widened(OP, device, name, x)?;
    let (count, k) = rows(x);
    let row = Access::rows(0, 1, k);
    let number = || row.get();
    let of = match map {
        Map::Elu => number().positive(number() + 1.0, number().min(0.0).exp()),
        Map::Relu => number().max(0.0),
        Map::Relu2 => number().max(0.0) * number().max(0.0),
        Map::Exp => number().exp(),
        Map::Identity => return Ok(x.clone()),
        Map::Taylor | Map::Based => {
            let (channel, root) = factors(map, k);
            let first = Access { shift: 1, ..row }.get() * channel;
            let left = Access { shift: 1 + k, divide: k.max(1), ..row }.get();
            let right = Access { shift: 1 + k, ..row }.get();
            Formula::below(1, 1.0, Formula::below(1 + k, first, left * right * root))
        }
    };
    let features = map.features(k);
    let shape = [&x.shape()[..x.shape().len().saturating_sub(1)], &[features]].concat();
    formula(OP, device, &[x], &of, Sizes::new(count, 1, features), &shape)
}

/// The gradient to rows, given that to their features, in the type of the rows.
fn slope(device: &Device, map: Map, name: &'static str, x: &View, d: View) -> Result<View, Error> {
    let wide = &widened(OP, device, name, x)?;
    let (count, k) = rows(x);
    let (row, of_d) = (Access::rows(0, 1, k), Access::rows(1, 1, k));
    let (number, through) = (|| row.get(), || of_d.get());
    let sizes = Sizes::new(count, 1, k);
    let of = match map {
        Map::Elu => through() * number().positive(1.0, number().min(0.0).exp()),
        Map::Relu => number().positive(through(), 0.0),
        Map::Relu2 => through() * number().max(0.0) * 2.0,
        Map::Exp => through() * number().exp(),
        Map::Identity => through(),
        Map::Taylor | Map::Based => {
            let (channel, root) = factors(map, k);
            let of_d = Access { token: map.features(k), ..of_d };
            let left = Access { offset: 1 + k, channel: k, term: 1, ..of_d }.get();
            let right = Access { offset: 1 + k, term: k, ..of_d }.get();
            let pairs = row.as_terms().get() * (left + right) * root;
            let of_pairs = formula(OP, device, &[wide, &d], &pairs, sizes.summed(k), x.shape())?;
            let of = number() + Access { offset: 1, ..of_d }.get() * channel;
            let d = formula(OP, device, &[&of_pairs, &d], &of, sizes, x.shape())?;
            return narrowed_to(OP, device, &d, x.dtype());
        }
    };
    narrowed_to(OP, device, &formula(OP, device, &[wide, &d], &of, sizes, x.shape())?, x.dtype())
}

/// Returns the outputs, `[B, T, H, V]`, and the states after the last tokens.
pub fn forward(device: &Device, x: &Inputs<'_>, state: &View) -> Result<(View, View), Error> {
    let (q, k) = (apply(device, x.map, "q", x.q)?, apply(device, x.map, "k", x.k)?);
    x.call().forward(device, [&q, &k], x.v, state)
}

/// Returns the gradients: those of the scan, then through the division and the features.
pub fn backward(device: &Device, x: &Inputs<'_>, state: &View, d_o: &View, d_state: &View) -> Result<Gradient, Error> {
    let (q, k) = (apply(device, x.map, "q", x.q)?, apply(device, x.map, "k", x.k)?);
    let [dq, dk, v, state] = x.call().backward(device, [&q, &k], x.v, state, [d_o, d_state])?;
    let (q, k) = (slope(device, x.map, "q", x.q, dq)?, slope(device, x.map, "k", x.k, dk)?);
    Ok(Gradient { q, k, v, state })
}
