//! RWKV-6 (Finch): a decay per key channel and token; the state is read before it is written, with a bonus for the
//! token itself.
//!
//! $$ o_t = s\,(S_{t-1} + \mathrm{Diag}(u)\, k_t v_t^\top)^\top q_t, \qquad S_t = \mathrm{Diag}(e^{g_t}) S_{t-1} + k_t v_t^\top $$
//!
//! The receptance `r` of the paper is `q` here. State `[S, H, K, V]` f32 · O(T H K V) time. Peng et al. 2024 (Eagle
//! and Finch), eq. 14–19.

use ndarray::{ArrayView2, ArrayView4};

use crate::fast_weights::{self, Erase, Gate, MatrixState};
use crate::{Error, Sequences};

mod naive;
pub(crate) mod operation;

pub use crate::fast_weights::{Gradient, backward, recurrent, step, step_into};
pub use naive::naive;

const OP: &str = "rwkv6";

/// The inputs; `F` is f32, or f64 for the definition.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, F = f32> {
    /// `[B, T, G, K]`, head `h` reads group `h / (H / G)`
    pub q: ArrayView4<'a, F>,
    /// `[B, T, G, K]`
    pub k: ArrayView4<'a, F>,
    /// `[B, T, H, V]`
    pub v: ArrayView4<'a, F>,
    /// The gate's logarithm, `[B, T, H, K]`, ≤ 0
    pub g: ArrayView4<'a, F>,
    /// The bonus, `[H, K]`
    pub u: ArrayView2<'a, F>,
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
            gate: Gate::Key(self.g),
            erase: Erase::None,
            bonus: Some(self.u),
            scale: self.scale,
            sequences: self.sequences,
        })
    }
}
