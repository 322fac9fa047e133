//! HGRN2: gated linear attention whose key is what the gate lets go.
//!
//! $$ S_t = \mathrm{Diag}(e^{g_t}) S_{t-1} + (1 - e^{g_t})\, v_t^\top, \qquad o_t = s\, S_t^\top q_t $$
//!
//! State `[S, H, K, V]` f32 · O(T H K V) time. Qin et al. 2024 (HGRN2), eq. 6.

use longreach_simd::{Cx, Lanes, math};
use ndarray::{Array4, ArrayView4};

use super::features::{OfRows, each, fresh};
use super::gla;
use crate::Sequences;

mod backward;
mod naive;
pub(crate) mod operation;
mod recurrent;
mod step;

pub use backward::{Gradient, backward};
pub use naive::naive;
pub use recurrent::recurrent;
pub use step::step;

const OP: &str = "hgrn2";

/// The inputs; `F` is f32, or f64 for the definition.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, F = f32> {
    /// `[B, T, H, K]`
    pub q: ArrayView4<'a, F>,
    /// The gate's logarithm, `[B, T, H, K]`, ≤ 0
    pub g: ArrayView4<'a, F>,
    /// `[B, T, H, V]`
    pub v: ArrayView4<'a, F>,
    /// `s`, often `K^{-1/2}`
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

    fn with_keys<'a>(&'a self, k: &'a Array4<F>) -> gla::Inputs<'a, F> {
        gla::Inputs { q: self.q, k: k.view(), v: self.v, g: self.g, scale: self.scale, sequences: self.sequences }
    }
}

/// `1 − e^g`, exact also where little is let go.
fn keys(g: ArrayView4<'_, f32>, cx: &Cx) -> Array4<f32> {
    let mut k = fresh(g.dim());
    each(cx, &LetIn, [g], &mut k);
    k
}

/// `1 − eˣ`
struct LetIn;

impl OfRows<1> for LetIn {
    #[inline(always)]
    fn row<S: Lanes>(&self, s: S, _: usize, [g]: [&[f32]; 1], out: &mut [f32]) {
        for (out, g) in out.chunks_mut(S::LANES).zip(g.chunks(S::LANES)) {
            s.store_part(out, s.sub(s.splat(0.0), math::exp_m1(s, s.load_part(g))));
        }
    }
}
