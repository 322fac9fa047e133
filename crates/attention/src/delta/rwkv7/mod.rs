//! RWKV-7 (Goose): a removal key erases what it reads, with a learned rate per channel.
//!
//! $$ S_t = \mathrm{Diag}(e^{g_t}) S_{t-1} - (\hat\kappa_t \odot a_t)(S_{t-1}^\top \hat\kappa_t)^\top + k_t v_t^\top, \qquad o_t = s\, S_t^\top q_t $$
//!
//! The receptance `r` of the paper is `q` here, `κ̂` must have norm 1. State `[S, H, K, V]` f32 · O(T H K V) time.
//! Peng et al. 2025 (RWKV-7), eq. 15–18.

use ndarray::ArrayView4;

use crate::fast_weights::{self, Erase, Gate, MatrixState};
use crate::{Error, Sequences};

mod backward;
mod naive;
pub(crate) mod operation;

pub use crate::fast_weights::{recurrent, step, step_into};
pub use backward::{Gradient, backward};
pub use naive::naive;

const OP: &str = "rwkv7";

/// The inputs; `F` is f32, or f64 for the definition.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, F = f32> {
    /// `[B, T, H, K]`
    pub q: ArrayView4<'a, F>,
    /// `[B, T, H, K]`
    pub k: ArrayView4<'a, F>,
    /// `[B, T, H, V]`
    pub v: ArrayView4<'a, F>,
    /// The gate's logarithm, `[B, T, H, K]`, ≤ 0
    pub g: ArrayView4<'a, F>,
    /// `κ̂`, the removal key, `[B, T, H, K]`
    pub kappa: ArrayView4<'a, F>,
    /// The rate of erasure, `[B, T, H, K]`, in `[0, 1]`
    pub a: ArrayView4<'a, F>,
    /// `s`, 1 in the authors' model
    pub scale: F,
    /// How the tokens form sequences.
    pub sequences: Sequences<'a>,
}

impl<F: Copy> Inputs<'_, F> {
    /// The shape of the state.
    pub fn state_shape(&self) -> [usize; 4] {
        let ((b, _, _, k), (_, _, h, v)) = (self.q.dim(), self.v.dim());
        [self.sequences.count(b), h, k, v]
    }
}

impl<F: Copy> MatrixState<F> for Inputs<'_, F> {
    fn kernel(&self) -> Result<fast_weights::Inputs<'_, F>, Error> {
        Ok(fast_weights::Inputs {
            op: OP,
            q: self.q,
            k: self.k,
            v: self.v,
            gate: Gate::Key(self.g),
            erase: Erase::Rate { kappa: self.kappa, a: self.a },
            bonus: None,
            scale: self.scale,
            sequences: self.sequences,
        })
    }
}
