//! RWKV-6 (Finch): a decay per key channel and token; the state is read before it is written, with a bonus for the
//! token itself.
//!
//! $$ o_t = s\,(S_{t-1} + \mathrm{Diag}(u)\, k_t v_t^\top)^\top q_t, \qquad S_t = \mathrm{Diag}(e^{g_t}) S_{t-1} + k_t v_t^\top $$
//!
//! The receptance `r` of the paper is `q` here. State `[S, H, K, V]` f32 · O(T H K V) time. Peng et al. 2024 (Eagle
//! and Finch), eq. 14–19.

use ndarray::{ArrayView2, ArrayView4};

use crate::Sequences;
use crate::fast_weights::{self, Erase, Gate};

mod backward;
mod naive;
pub(crate) mod operation;
mod recurrent;
mod step;

pub use backward::{Gradient, backward};
pub use naive::naive;
pub use recurrent::recurrent;
pub use step::{step, step_into};

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

impl<F: Copy + PartialOrd + Default + std::fmt::Debug> Inputs<'_, F> {
    /// The shape of the state.
    pub fn state_shape(&self) -> [usize; 4] {
        self.kernel().state_shape()
    }

    pub(super) fn kernel(&self) -> fast_weights::Inputs<'_, F> {
        fast_weights::Inputs {
            op: OP,
            q: self.q,
            k: self.k,
            v: self.v,
            gate: Gate::Key(self.g),
            erase: Erase::None,
            bonus: Some(self.u),
            scale: self.scale,
            sequences: self.sequences,
        }
    }
}
