//! RWKV-7 (Goose): what a removal key reads is taken out as far as a learned rate says, channel by channel.
//!
//! $$ S_t = \mathrm{Diag}(e^{g_t}) S_{t-1} - (\hat\kappa_t \odot a_t)(S_{t-1}^\top \hat\kappa_t)^\top + k_t v_t^\top, \qquad o_t = s\, S_t^\top q_t $$
//!
//! The receptance `r` of the paper is `q` here, `κ̂` is to be of length 1. State `[S, H, K, V]` f32 · O(T H K V) time. Peng et al. 2025 (RWKV-7), eq. 15–18.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayView4, Zip, s};

use super::dplr;
use crate::linear::{by_tokens, fresh};
use crate::{Error, Sequences, error};

mod backward;
mod naive;
pub(crate) mod operation;
mod recurrent;
mod step;

pub use backward::{Gradient, backward};
pub use naive::naive;
pub use recurrent::recurrent;
pub use step::step;

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
    /// `κ̂`, what is erased by, `[B, T, H, K]`
    pub kappa: ArrayView4<'a, F>,
    /// How much of it is erased, `[B, T, H, K]`, in `[0, 1]`
    pub a: ArrayView4<'a, F>,
    /// `s`, in the authors' model 1
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

    fn check(&self) -> Result<(), Error> {
        error::shape(OP, "kappa", self.q.shape(), self.kappa.shape())?;
        error::shape(OP, "a", self.q.shape(), self.a.shape())
    }
}

/// What the general transition is given: `a = κ̂`, `b = −κ̂ ⊙ a`.
struct Transition {
    b: Array4<f32>,
}

impl Transition {
    fn of(x: &Inputs<'_>, cx: &Cx) -> Result<Self, Error> {
        x.check()?;
        let mut b = fresh(x.kappa.dim());
        by_tokens(cx, &mut b, |t, b| {
            let (kappa, a) = (x.kappa.slice(s![.., t.clone(), .., ..]), x.a.slice(s![.., t, .., ..]));
            Zip::from(b).and(kappa).and(a).for_each(|b, kappa, a| *b = -kappa * a);
        });
        Ok(Self { b })
    }

    fn general<'a>(&'a self, x: &'a Inputs<'_>) -> dplr::Inputs<'a> {
        dplr::Inputs {
            q: x.q,
            k: x.k,
            v: x.v,
            a: x.kappa,
            b: self.b.view(),
            g: x.g,
            scale: x.scale,
            sequences: x.sequences,
        }
    }
}
