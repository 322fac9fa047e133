//! Linear attention: features of queries and keys in place of the exponential.
//!
//! $$ o_i = \frac{\phi(q_i)^\top \sum_j \phi(k_j) v_j^\top}{\phi(q_i)^\top \sum_j \phi(k_j) + \epsilon} $$
//!
//! over `j ≤ i`, or over all `j`; or the numerator alone, times `s`. State `[S, H, F, V]` f32, `F` the features of a key, and with a denominator a
//! column more · O(T H F V) time. Katharopoulos et al. 2020, eq. 5–9; the Taylor features of Arora et al. 2024 (Based), §3.1.
//!
//! flash-linear-attention takes `s = K^{-1/2}` where none is given, which with a denominator changes the weight of `ε` only; here it is 1. Its model of Based makes features of
//! `K^{-1/4} x` ([`Map::Based`]).

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

/// What becomes of a query or a key.
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
    /// Those of `K^{-1/4} x`, as the authors' model and its libraries have them: the series of the exponential of a scaled product
    Based,
}

impl Map {
    /// How many features a key of `width` has.
    pub fn features(self, width: usize) -> usize {
        if self.squares() { 1 + width + width * width } else { width }
    }

    /// Whether products of channels are among the features.
    fn squares(self) -> bool {
        matches!(self, Self::Taylor | Self::Based)
    }

    /// Times which a channel is taken before its features are made.
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
    /// `ε`, where the output is divided by the sum of the weights; 0 or more
    pub normalize: Option<f64>,
    /// Whether the future is hidden.
    pub causal: bool,
    /// `s`, times which the features of queries are taken
    pub scale: f64,
    /// How the tokens form sequences.
    pub sequences: Sequences<'a>,
}

/// The usual `ε`: that of the authors' library.
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
