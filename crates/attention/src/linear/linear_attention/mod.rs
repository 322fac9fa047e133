//! Linear attention: a feature map of queries and keys replaces the exponential of softmax.
//!
//! $$ o_i = \frac{\phi(q_i)^\top \sum_j \phi(k_j) v_j^\top}{\phi(q_i)^\top \sum_j \phi(k_j) + \epsilon} $$
//!
//! over `j ≤ i`, or over all `j`; or the numerator alone, times `s`. State `[S, H, F, V]` f32, with one more column
//! for the denominator, `F` the features of a key · O(T H F V) time. Katharopoulos et al. 2020, eq. 5–9; the Taylor
//! features of Arora et al. 2024 (Based), §3.1.
//!
//! The default of `s` is 1. flash-linear-attention's is `K^{-1/2}`, which with a denominator changes the weight of `ε`
//! only; its Based model computes the features of `K^{-1/4} x` ([`Map::Based`]).

use ndarray::ArrayView4;
use serde::Deserialize;

use super::features::{Call, Floor};
use crate::Sequences;

mod backward;
mod chunk;
mod map;
mod naive;
pub(crate) mod operation;
mod recurrent;
mod step;

pub use backward::{Gradient, backward};
pub use chunk::chunk;
pub use naive::naive;
pub use recurrent::recurrent;
pub use step::{step, step_into};

const OP: &str = "linear_attention";

/// The feature map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Map {
    /// `elu(x) + 1`: `x + 1` above zero, `eˣ` below
    #[default]
    Elu,
    /// `max(x, 0)`
    Relu,
    /// `max(x, 0)²`
    Relu2,
    /// `eˣ`
    Exp,
    /// `x`
    Identity,
    /// `1, x, x xᵀ / √2`: products are the second-order series of `eˣʸ`
    Taylor,
    /// The `Taylor` features of `K^{-1/4} x`, as in the authors' model: products are the series of the exponential of
    /// the scaled product
    Based,
}

impl Map {
    /// The number of features of a key of the given width.
    pub fn features(self, width: usize) -> usize {
        if self.squares() { 1 + width + width * width } else { width }
    }

    /// Whether the features include products of channels.
    fn squares(self) -> bool {
        matches!(self, Self::Taylor | Self::Based)
    }

    /// The factor of the channels before the features are computed.
    #[inline(always)]
    fn channel(self, width: usize) -> f32 {
        if self == Self::Based { (width as f32).powf(-0.25) } else { 1.0 }
    }
}

/// The inputs; `F` is f32, or f64 for the definition.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, F = f32> {
    /// `[B, T, G, K]`, head `h` reads group `h / (H / G)`
    pub q: ArrayView4<'a, F>,
    /// `[B, T, G, K]`
    pub k: ArrayView4<'a, F>,
    /// `[B, T, H, V]`
    pub v: ArrayView4<'a, F>,
    /// The features.
    pub map: Map,
    /// `ε`, 0 or more; without it the output is not divided by the sum of the weights
    pub normalize: Option<f64>,
    /// Whether attention is causal.
    pub causal: bool,
    /// `s`, the factor of the features of queries
    pub scale: f64,
    /// How the tokens form sequences.
    pub sequences: Sequences<'a>,
}

/// The default `ε` of the authors' library.
pub const EPSILON: f64 = 1e-6;

impl<F> Inputs<'_, F> {
    /// The shape of the state.
    pub fn state_shape(&self) -> [usize; 4] {
        self.call().state_shape(&self.q, &self.v, self.map.features(self.q.dim().3))
    }

    fn call(&self) -> Call<'_> {
        Call {
            op: OP,
            floor: self.normalize.map(Floor::Add),
            causal: self.causal,
            scale: self.scale,
            sequences: self.sequences,
        }
    }

    fn check(&self, state: &[usize]) -> Result<(), crate::Error> {
        self.call().check(&self.q, &self.k, &self.v, self.map.features(self.q.dim().3), state)
    }
}
