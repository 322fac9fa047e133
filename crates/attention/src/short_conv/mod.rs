//! Causal depthwise convolution over a few tokens, with an activation: it precedes the recurrence in most linear
//! models.
//!
//! $$ y_t = \phi\Bigl(b + \sum_{j=0}^{W-1} w_j \odot x_{t-W+1+j}\Bigr), \qquad \phi \in \{\mathrm{id}, \mathrm{silu}\} $$
//!
//! `x y: [B, T, D]` · `w: [W, D]` (tap `W - 1` applies to the current token) · `b: [D]` · state `[S, W - 1, D]`: the
//! last `W - 1` inputs before the activation, oldest first, zero at a sequence's start · O(T D W) time. Fu et al. 2022
//! (H3), §3; Gu and Dao 2023 (Mamba), §3.4.

use ndarray::{ArrayView1, ArrayView2, ArrayView3};

use crate::{Error, Sequences, error};

mod backward;
mod chunk;
mod naive;
pub(crate) mod operation;
mod step;

pub use backward::{Gradient, backward};
pub use chunk::{chunk, chunk_into};
pub use naive::naive;
pub use step::step;

/// The activation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// The identity.
    #[default]
    None,
    /// `x σ(x)`.
    Silu,
}

/// The inputs of the convolution; `F` is f32, or f64 for the definition.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, F = f32> {
    /// `[B, T, D]`
    pub x: ArrayView3<'a, F>,
    /// `[W, D]`
    pub w: ArrayView2<'a, F>,
    /// `[D]`
    pub bias: Option<ArrayView1<'a, F>>,
    /// The activation.
    pub activation: Activation,
    /// How the tokens form sequences.
    pub sequences: Sequences<'a>,
}

const OP: &str = "short_conv";

impl<F> Inputs<'_, F> {
    fn dims(&self) -> (usize, usize, usize, usize) {
        let (b, t, d) = self.x.dim();
        (b, t, d, self.w.dim().0)
    }

    /// The shape of the state.
    pub fn state_shape(&self) -> [usize; 3] {
        let (b, _, d, w) = self.dims();
        [self.sequences.count(b), w.saturating_sub(1), d]
    }

    fn check(&self, state: &[usize]) -> Result<(), Error> {
        let (_, _, d, w) = self.dims();
        error::shape(OP, "w", &[w.max(1), d], self.w.shape())?;
        if let Some(bias) = &self.bias {
            error::shape(OP, "bias", &[d], bias.shape())?;
        }
        error::shape(OP, "state", &self.state_shape(), state)
    }
}
