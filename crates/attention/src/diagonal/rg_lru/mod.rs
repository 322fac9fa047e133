//! The real-gated linear recurrent unit (Griffin, RecurrentGemma): an element-wise, input-dependent decay.
//!
//! $$ \ln a_t = -8\,\mathrm{softplus}(\lambda)\,\sigma(r_t), \qquad h_t = a_t h_{t-1} + \sqrt{1 - a_t^2}\; \sigma(i_t)\, x_t, \qquad o_t = h_t $$
//!
//! `x r i o: [B, T, D]`, the gates before their sigmoids · `λ: [D]` · state `[S, D]` f32 · O(T D) time. At the start of
//! a text (`reset`) the state is cleared and the input is not scaled by the root. De et al. 2024 (Griffin), eq. 1–4,
//! and the authors' code for the bound of the root's slope.

use ndarray::{ArrayView1, ArrayView2, ArrayView3};

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

const OP: &str = "rg_lru";
/// `c`
const SHARPNESS: f32 = 8.0;

/// The inputs; `F` is f32, or f64 for the definition.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, F = f32> {
    /// `[B, T, D]`
    pub x: ArrayView3<'a, F>,
    /// The recurrence gate before its sigmoid, `[B, T, D]`
    pub r: ArrayView3<'a, F>,
    /// The input gate before its sigmoid, `[B, T, D]`
    pub i: ArrayView3<'a, F>,
    /// `λ`, `[D]`
    pub lambda: ArrayView1<'a, F>,
    /// Non-zero where a text starts, `[B, T]`
    pub reset: Option<ArrayView2<'a, F>>,
    /// How the tokens form sequences.
    pub sequences: Sequences<'a>,
}

impl<F> Inputs<'_, F> {
    /// The shape of the state.
    pub fn state_shape(&self) -> [usize; 2] {
        let (b, _, d) = self.x.dim();
        [self.sequences.count(b), d]
    }

    fn check(&self, state: &[usize]) -> Result<(), Error> {
        let (b, t, d) = self.x.dim();
        error::shape(OP, "r", &[b, t, d], self.r.shape())?;
        error::shape(OP, "i", &[b, t, d], self.i.shape())?;
        error::shape(OP, "lambda", &[d], self.lambda.shape())?;
        if let Some(reset) = &self.reset {
            error::shape(OP, "reset", &[b, t], reset.shape())?;
        }
        error::shape(OP, "state", &self.state_shape(), state)
    }
}
