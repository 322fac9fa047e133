//! The gated delta rule: the state decays, then the value it holds for the key is corrected towards `v`.
//!
//! $$ S'_t = e^{g_t} S_{t-1}, \qquad S_t = S'_t + \beta_t\, k_t (v_t - S_t'^\top k_t)^\top, \qquad o_t = s\, S_t^\top q_t $$
//!
//! State `[S, H, K, V]` f32 · O(T H K V) time. Yang et al. 2024 (Gated DeltaNet), eq. 10.

use ndarray::{ArrayView3, ArrayView4};

use crate::fast_weights::{self, Erase, Gate, MatrixState};
use crate::{Error, Sequences};

mod naive;
pub(crate) mod operation;

pub use crate::fast_weights::{Gradient, backward, recurrent, step, step_into};
pub use naive::naive;

const OP: &str = "gated_delta";

/// The inputs; `F` is f32, or f64 for the definition.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, F = f32> {
    /// `[B, T, G, K]`, head `h` reads group `h / (H / G)`
    pub q: ArrayView4<'a, F>,
    /// `[B, T, G, K]`
    pub k: ArrayView4<'a, F>,
    /// `[B, T, H, V]`
    pub v: ArrayView4<'a, F>,
    /// The gate's logarithm, `[B, T, H]`, ≤ 0
    pub g: ArrayView3<'a, F>,
    /// The strength of the correction, `[B, T, H]`, in `[0, 1]`, or `[0, 2]` for negative eigenvalues
    pub beta: ArrayView3<'a, F>,
    /// `s`, often `K^{-1/2}`
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
            gate: Gate::Token(self.g),
            erase: Erase::Own(self.beta),
            bonus: None,
            scale: self.scale,
            sequences: self.sequences,
        })
    }
}
