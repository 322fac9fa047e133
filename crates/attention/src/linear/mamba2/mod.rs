//! State-space duality (SSD): a matrix state per head, one decay per head and token, and `B` and `C` shared by groups
//! of heads.
//!
//! $$ \Delta_t = \mathrm{clamp}(\mathrm{softplus}(dt_t + b)), \quad
//!    S_t = e^{\Delta_t A} S_{t-1} + \Delta_t B_t x_t^\top, \quad y_t = S_t^\top C_t + D x_t $$
//!
//! `x: [B, T, H, P]` · `dt: [B, T, H]` · `a d dt_bias: [H]`, `a` negative · `b c: [B, T, G, N]`, head `h` reads group
//! `h / (H / G)` · state `[S, H, N, P]` f32 (Hugging Face keeps `[H, P, N]`) · O(T H N P) time. The [`scan`] with
//! `q = C`, `k = B`, `v = x`, `g = ΔA`, `β = Δ`, a skip `D` and scale 1. Dao and Gu 2024 (Mamba-2), eq. 1 and §7.

use longreach_simd::Cx;
use ndarray::{Array3, ArrayView1, ArrayView3, ArrayView4};

use super::scan;
use crate::{Error, Sequences, error};

mod backward;
mod chunk;
mod naive;
pub(crate) mod operation;
mod recurrent;
mod step;

pub use backward::{Gradient, backward};
pub use chunk::{chunk, chunk_into};
pub use naive::naive;
pub use recurrent::{recurrent, recurrent_into};
pub use step::{step, step_into};

/// The inputs of the scan; `F` is f32, or f64 for the definition.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, F = f32> {
    /// `[B, T, H, P]`
    pub x: ArrayView4<'a, F>,
    /// The step before softplus, `[B, T, H]`
    pub dt: ArrayView3<'a, F>,
    /// Added to `dt` before softplus, `[H]`
    pub dt_bias: ArrayView1<'a, F>,
    /// Bounds of the step after softplus (`time_step_limit`); `(0, ∞)` is none.
    pub dt_limit: (F, F),
    /// `[H]`
    pub a: ArrayView1<'a, F>,
    /// `[B, T, G, N]`
    pub b: ArrayView4<'a, F>,
    /// `[B, T, G, N]`
    pub c: ArrayView4<'a, F>,
    /// `[H]`
    pub d: ArrayView1<'a, F>,
    /// How the tokens form sequences.
    pub sequences: Sequences<'a>,
}

const OP: &str = "mamba2";

impl Inputs<'_> {
    /// The inputs of the scan, given `Δ` and `g`.
    fn scan<'a>(&'a self, delta: ArrayView3<'a, f32>, g: ArrayView3<'a, f32>) -> scan::Inputs<'a> {
        scan::Inputs {
            q: self.c.view(),
            k: self.b.view(),
            v: self.x.view(),
            g: Some(g),
            beta: Some(delta),
            skip: Some(self.d.view()),
            scale: 1.0,
            sequences: self.sequences,
        }
    }
}

impl<F> Inputs<'_, F> {
    /// The shape of the state.
    pub fn state_shape(&self) -> [usize; 4] {
        let (b, _, h, p) = self.x.dim();
        [self.sequences.count(b), h, self.b.dim().3, p]
    }
}

impl<F: Copy + Into<f64>> Inputs<'_, F> {
    fn check(&self) -> Result<(), Error> {
        let ((b, t, h, _), (_, _, groups, _)) = (self.x.dim(), self.b.dim());
        if groups == 0 || h % groups != 0 {
            return Err(Error::Groups { op: OP, heads: h, groups });
        }
        error::shape(OP, "dt", &[b, t, h], self.dt.shape())?;
        error::shape(OP, "dt_bias", &[h], self.dt_bias.shape())?;
        let (low, high): (f64, f64) = (self.dt_limit.0.into(), self.dt_limit.1.into());
        error::number(OP, "dt_min", low)?;
        let rising = high >= low;
        if !rising {
            return error::parameter(OP, "dt_max", false, high, format!("at least {low}, the least step"));
        }
        error::shape(OP, "a", &[h], self.a.shape())
    }
}

/// The inputs of the scan that are computed from those of Mamba-2: `Δ` and `g = ΔA`.
struct Gates {
    delta: Array3<f32>,
    g: Array3<f32>,
}

impl Gates {
    fn of(x: &Inputs<'_>, cx: &Cx) -> Result<Self, Error> {
        x.check()?;
        let mut delta = &x.dt + &x.dt_bias;
        longreach_simd::math::softplus_slice(cx, delta.as_slice_mut().unwrap_or_default());
        let (low, high) = x.dt_limit;
        delta.mapv_inplace(|d| d.max(low).min(high));
        let g = &delta * &x.a;
        Ok(Self { delta, g })
    }

    fn scan<'a>(&'a self, x: &'a Inputs<'_>) -> scan::Inputs<'a> {
        x.scan(self.delta.view(), self.g.view())
    }
}
