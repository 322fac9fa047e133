//! Selective state space (S6): every channel has a state of `N` numbers whose decay and input depend on the token.
//!
//! $$ \Delta_t = \mathrm{softplus}(dt_t + b), \quad
//!    h_t = e^{\Delta_t A} \odot h_{t-1} + \Delta_t B_t x_t, \quad
//!    y_t = (C_t^\top h_t + D \odot x_t) \odot \mathrm{silu}(z_t) $$
//!
//! `x dt z: [B, T, D]` · `a: [N, D]`, negative · `b c: [B, T, N]` · `d dt_bias: [D]` · state `[S, N, D]` f32 · O(T D N) time.
//! Checkpoints store `A_log: [D, N]`; here channels are the last axis everywhere, so that vector lanes are channels.
//! Gu and Dao 2023 (Mamba), eq. 2a–2b with §3.2 and algorithm 2.

use ndarray::{ArrayView1, ArrayView2, ArrayView3};

use crate::{Error, Sequences, error};

mod backward;
mod naive;
pub(crate) mod operation;
mod recurrent;
mod step;

pub use backward::{Gradient, backward};
pub use naive::naive;
pub use recurrent::{recurrent, recurrent_into};
pub use step::{step, step_into};

/// The inputs of the scan; `F` is f32, or f64 for the definition.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, F = f32> {
    /// `[B, T, D]`
    pub x: ArrayView3<'a, F>,
    /// The step size before softplus, `[B, T, D]`
    pub dt: ArrayView3<'a, F>,
    /// Added to `dt` before softplus, `[D]`
    pub dt_bias: ArrayView1<'a, F>,
    /// `[N, D]`
    pub a: ArrayView2<'a, F>,
    /// `[B, T, N]`
    pub b: ArrayView3<'a, F>,
    /// `[B, T, N]`
    pub c: ArrayView3<'a, F>,
    /// `[D]`
    pub d: ArrayView1<'a, F>,
    /// The gate, `[B, T, D]`
    pub z: Option<ArrayView3<'a, F>>,
    /// How the tokens form sequences.
    pub sequences: Sequences<'a>,
}

const OP: &str = "mamba";

impl<F> Inputs<'_, F> {
    fn dims(&self) -> (usize, usize, usize, usize) {
        let (b, t, d) = self.x.dim();
        (b, t, d, self.a.dim().0)
    }

    /// The shape of the state.
    pub fn state_shape(&self) -> [usize; 3] {
        let (b, _, d, n) = self.dims();
        [self.sequences.count(b), n, d]
    }

    fn check(&self, state: &[usize]) -> Result<(), Error> {
        let (b, t, d, n) = self.dims();
        error::some(OP, [("N", n)])?;
        error::shape(OP, "dt", &[b, t, d], self.dt.shape())?;
        error::shape(OP, "dt_bias", &[d], self.dt_bias.shape())?;
        error::shape(OP, "a", &[n, d], self.a.shape())?;
        error::shape(OP, "b", &[b, t, n], self.b.shape())?;
        error::shape(OP, "c", &[b, t, n], self.c.shape())?;
        error::shape(OP, "d", &[d], self.d.shape())?;
        if let Some(z) = &self.z {
            error::shape(OP, "z", &[b, t, d], z.shape())?;
        }
        error::shape(OP, "state", &self.state_shape(), state)
    }
}
