//! Performer (FAVOR+): random features whose products are the softmax kernel on average.
//!
//! $$ \phi(x) = \frac{1}{\sqrt{M}} \left( e^{W x' - \|x'\|^2 / 2} + \epsilon \right), \qquad x' = K^{-1/4} x, \qquad
//!    o_i = \frac{\phi(q_i)^\top \sum_j \phi(k_j) v_j^\top}{\phi(q_i)^\top \sum_j \phi(k_j)} $$
//!
//! The rows of `W` are orthogonal ([`projection`]). No maximum is subtracted in the exponent, so that the sums can be
//! continued from call to call: a maximum per query would cancel except for `ε`, and one over all keys is not causal.
//! State `[S, H, F, V + 1]` f32, `F` the features · O(T H F (K + V)) time. Choromanski et al. 2021, eq. 4–8; the
//! hyperbolic features are its eq. 7, `relu` its generalised kernel.

use ndarray::{ArrayView2, ArrayView4};
use serde::Deserialize;

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
pub use map::projection;
pub use naive::naive;
pub use recurrent::recurrent;
pub use step::{step, step_into};

const OP: &str = "performer";

/// The kernel that the features approximate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kernel {
    /// Softmax, with positive features.
    #[default]
    Softmax,
    /// Softmax, with features for both `W` and `−W`, which halves the variance for a given number of random rows.
    Hyperbolic,
    /// `max(W x', 0) + ε`
    Relu,
}

impl Kernel {
    /// `F`, the number of features for `rows` random rows.
    pub fn features(self, rows: usize) -> usize {
        if self == Kernel::Hyperbolic { 2 * rows } else { rows }
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
    /// `W`, the random projection, `[M, K]`
    pub w: ArrayView2<'a, F>,
    /// The kernel.
    pub kernel: Kernel,
    /// `ε`
    pub epsilon: f64,
    /// Whether attention is causal.
    pub causal: bool,
    /// How the tokens form sequences.
    pub sequences: Sequences<'a>,
}

impl<F> Inputs<'_, F> {
    /// The shape of the state.
    pub fn state_shape(&self) -> [usize; 4] {
        self.call().state_shape(&self.q, &self.v, self.features())
    }

    fn features(&self) -> usize {
        self.kernel.features(self.w.dim().0)
    }

    fn call(&self) -> Call<'_> {
        Call { op: OP, floor: Some(Floor::Add(0.0)), causal: self.causal, scale: 1.0, sequences: self.sequences }
    }

    fn check(&self, state: &[usize]) -> Result<(), Error> {
        error::shape(OP, "w", &[self.w.dim().0, self.q.dim().3], self.w.shape())?;
        error::some(OP, [("M", self.w.dim().0)])?;
        let between = (0.0..=1.0).contains(&self.epsilon);
        error::parameter(OP, "epsilon", between, self.epsilon, "from 0 to 1: sums of its squares must be finite")?;
        self.call().check(&self.q, &self.k, &self.v, self.features(), state)
    }
}
