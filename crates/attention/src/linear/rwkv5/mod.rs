//! RWKV-5 (Eagle): RWKV-6 with a decay that is the same for all tokens.
//!
//! $$ o_t = s\,(S_{t-1} + \mathrm{Diag}(u)\, k_t v_t^\top)^\top q_t, \qquad S_t = \mathrm{Diag}(e^{g}) S_{t-1} + k_t v_t^\top $$
//!
//! The receptance `r` of the paper is `q` here. State `[S, H, K, V]` f32 · O(T H K V) time. Peng et al. 2024 (Eagle
//! and Finch), eq. 3–8.

use ndarray::{ArrayView2, ArrayView4};

use crate::fast_weights::{self, Erase, Gate, MatrixState};
use crate::{Error, Sequences, error};

mod backward;
mod naive;
pub(crate) mod operation;

pub use crate::fast_weights::{recurrent, step, step_into};
pub use backward::{Gradient, backward};
pub use naive::naive;

const OP: &str = "rwkv5";

/// The inputs; `F` is f32, or f64 for the definition.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, F = f32> {
    /// `[B, T, H, K]`
    pub q: ArrayView4<'a, F>,
    /// `[B, T, H, K]`
    pub k: ArrayView4<'a, F>,
    /// `[B, T, H, V]`
    pub v: ArrayView4<'a, F>,
    /// The gate's logarithm, `[H, K]`, ≤ 0
    pub g: ArrayView2<'a, F>,
    /// The bonus, `[H, K]`
    pub u: ArrayView2<'a, F>,
    /// `s`, 1 in the authors' model
    pub scale: F,
    /// How the tokens form sequences.
    pub sequences: Sequences<'a>,
}

impl<F: Copy> Inputs<'_, F> {
    /// The shape of the state.
    pub fn state_shape(&self) -> [usize; 4] {
        let ((b, _, h, k), v) = (self.q.dim(), self.v.dim().3);
        [self.sequences.count(b), h, k, v]
    }
}

impl<F: Copy> MatrixState<F> for Inputs<'_, F> {
    /// The decay is broadcast to every token.
    fn kernel(&self) -> Result<fast_weights::Inputs<'_, F>, Error> {
        let (_, _, h, k) = self.q.dim();
        error::shape(OP, "g", &[h, k], self.g.shape())?;
        let g = self.g.broadcast(self.q.raw_dim()).ok_or(Error::Layout { op: OP, input: "g" })?;
        Ok(fast_weights::Inputs {
            op: OP,
            q: self.q,
            k: self.k,
            v: self.v,
            gate: Gate::Key(g),
            erase: Erase::None,
            bonus: Some(self.u),
            scale: self.scale,
            sequences: self.sequences,
        })
    }
}
