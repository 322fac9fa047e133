//! Retention (RetNet): a constant decay per head.
//!
//! $$ S_t = \gamma_h S_{t-1} + k_t v_t^\top, \qquad o_t = s\, S_t^\top q_t, \qquad \gamma_h = 1 - 2^{-5-h} $$
//!
//! The paper's parallel form is the chunked form with one chunk. Its rotary positions, norm per head and output gate
//! are layers around this one. State `[S, H, K, V]` f32 · O(T H K V) time. Sun et al. 2023 (RetNet), eq. 5–8.

use ndarray::{ArrayView1, ArrayView4};

use super::scan;
use crate::{Error, Sequences, error};

mod backward;
mod chunk;
mod naive;
pub(crate) mod operation;
mod recurrent;
mod step;

pub use backward::{Gradient, backward};
pub use chunk::chunk;
pub use naive::naive;
pub use recurrent::recurrent;
pub use step::{step, step_into};

const OP: &str = "retention";

/// The inputs; `F` is f32, or f64 for the definition.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, F = f32> {
    /// `[B, T, G, K]`, head `h` reads group `h / (H / G)`
    pub q: ArrayView4<'a, F>,
    /// `[B, T, G, K]`
    pub k: ArrayView4<'a, F>,
    /// `[B, T, H, V]`
    pub v: ArrayView4<'a, F>,
    /// The logarithms of the decays, `[H]`, ≤ 0; [`decays`] returns those of the paper
    pub g: ArrayView1<'a, F>,
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

    fn scan(&self) -> Result<scan::Inputs<'_, F>, Error> {
        let (b, t, h, _) = self.v.dim();
        error::shape(OP, "g", &[h], self.g.shape())?;
        let g = self.g.broadcast([b, t, h]).ok_or(Error::Layout { op: OP, input: "g" })?;
        Ok(scan::Inputs {
            q: self.q,
            k: self.k,
            v: self.v,
            g: Some(g),
            beta: None,
            skip: None,
            scale: self.scale,
            sequences: self.sequences,
        })
    }
}

/// `ln γ_h = ln(1 − 2^{-5-h})`, `[H]`.
pub fn decays(heads: usize) -> Vec<f64> {
    (0..heads).map(|h| (-(-5.0 - h as f64).exp2()).ln_1p()).collect()
}
