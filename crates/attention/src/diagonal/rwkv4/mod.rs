//! RWKV-4: a weighted mean of values with exponentially decaying weights, per channel.
//!
//! $$ o_t = \frac{A_{t-1} + e^{u + k_t} v_t}{B_{t-1} + e^{u + k_t}}, \qquad A_t = e^{w} A_{t-1} + e^{k_t} v_t, \qquad B_t = e^{w} B_{t-1} + e^{k_t} $$
//!
//! `k v o: [B, T, D]` · `w u: [D]`, `w ≤ 0` the logarithm of the decay · state `[S, 3, D]` f32: `A` and `B` divided by
//! `e^m`, and `m`, the running maximum of exponents, which prevents overflow; where `B` is 0 the past is empty, and `m`
//! is taken as −∞ · O(T D) time. Peng et al. 2023 (RWKV), eq. 16 and appendix D.

use ndarray::{ArrayView1, ArrayView3};

use crate::{Error, Sequences, error};

mod backward;
mod naive;
pub(crate) mod operation;
mod recurrent;
mod step;

pub use backward::{Gradient, backward};
pub use naive::naive;
pub use recurrent::recurrent;
pub use step::{step, step_into};

const OP: &str = "rwkv4";

/// The inputs; `F` is f32, or f64 for the definition.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, F = f32> {
    /// `[B, T, D]`
    pub k: ArrayView3<'a, F>,
    /// `[B, T, D]`
    pub v: ArrayView3<'a, F>,
    /// The logarithm of the decay, `[D]`, ≤ 0
    pub w: ArrayView1<'a, F>,
    /// The bonus of the current token, `[D]`
    pub u: ArrayView1<'a, F>,
    /// How the tokens form sequences.
    pub sequences: Sequences<'a>,
}

impl<F: PartialOrd + Default + std::fmt::Debug> Inputs<'_, F> {
    /// The shape of the state.
    pub fn state_shape(&self) -> [usize; 3] {
        let (b, _, d) = self.k.dim();
        [self.sequences.count(b), 3, d]
    }

    fn check(&self, state: &[usize]) -> Result<(), Error> {
        let (_, _, d) = self.k.dim();
        error::shape(OP, "v", self.k.shape(), self.v.shape())?;
        error::shape(OP, "w", &[d], self.w.shape())?;
        error::shape(OP, "u", &[d], self.u.shape())?;
        let above = self.w.iter().find(|w| **w > F::default());
        error::none(OP, "w", above, "the logarithm of a factor of at most 1: 0 or less")?;
        error::shape(OP, "state", &self.state_shape(), state)
    }
}
