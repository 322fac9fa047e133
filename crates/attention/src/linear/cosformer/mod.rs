//! cosFormer: ReLU features, with weights that fall with the cosine of the distance.
//!
//! $$ \phi(x_t) = \left[ \max(x_t, 0) \sin\frac{\pi t}{2m},\; \max(x_t, 0) \cos\frac{\pi t}{2m} \right], \qquad
//!    o_i = \frac{\phi(q_i)^\top \sum_j \phi(k_j) v_j^\top}{\max(\phi(q_i)^\top \sum_j \phi(k_j), \epsilon)} $$
//!
//! so the weight of a pair is `max(q, 0)ᵀ max(k, 0) cos(π (i − j) / 2m)`. Positions run from 1 to `m`, the length.
//! State `[S, H, 2 K, V + 1]` f32 · O(T H K V) time. Qin et al. 2022 (cosFormer), eq. 10–13.

use ndarray::{ArrayView2, ArrayView4};

use super::features::{Call, Floor};
use crate::{Error, Sequences, error};

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

const OP: &str = "cosformer";

/// The inputs; `F` is f32, or f64 for the definition.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, F = f32> {
    /// `[B, T, G, K]`, head `h` reads group `h / (H / G)`
    pub q: ArrayView4<'a, F>,
    /// `[B, T, G, K]`
    pub k: ArrayView4<'a, F>,
    /// `[B, T, H, V]`
    pub v: ArrayView4<'a, F>,
    /// The position of each token, `[B, T]`, from 1 on; not differentiated
    pub positions: ArrayView2<'a, F>,
    /// `m`, the largest position
    pub length: f64,
    /// Whether attention is causal.
    pub causal: bool,
    /// How the tokens form sequences.
    pub sequences: Sequences<'a>,
}

/// `ε`
const FLOOR: f64 = 1e-6;

impl<F> Inputs<'_, F> {
    /// The shape of the state.
    pub fn state_shape(&self) -> [usize; 4] {
        self.call().state_shape(&self.q, &self.v, 2 * self.q.dim().3)
    }

    fn call(&self) -> Call<'_> {
        Call { op: OP, floor: Some(Floor::AtLeast(FLOOR)), causal: self.causal, scale: 1.0, sequences: self.sequences }
    }

    fn check(&self, state: &[usize]) -> Result<(), Error> {
        error::shape(OP, "positions", &[self.q.dim().0, self.q.dim().1], self.positions.shape())?;
        error::parameter(OP, "length", self.length > 0.0 && self.length.is_finite(), self.length, "more than 0")?;
        self.call().check(&self.q, &self.k, &self.v, 2 * self.q.dim().3, state)
    }
}
