//! Linformer: keys and values are projected along the sequence to a fixed length.
//!
//! $$ \tilde k_r = \sum_j E_{jr}\, k_j, \quad \tilde v_r = \sum_j F_{jr}\, v_j, \qquad
//!    o_i = \sum_r \mathrm{softmax}_r(s\,q_i^\top \tilde k_r)\, \tilde v_r $$
//!
//! All heads share `E` and `F`; a sequence shorter than `L` uses their first rows. Every projected key mixes all
//! tokens, so there is no causal form and no step. O(S R (D + E) + T R H (D + E)) time, O(R H (D + E)) memory beside
//! inputs and outputs. Wang et al. 2020, eq. 7.

use ndarray::{Array4, ArrayView2, ArrayView4};

use crate::linear::fresh;
use crate::softmax::{self, dense::Dense};
use crate::{Error, error};

mod backward;
mod chunk;
mod naive;
pub(crate) mod operation;

pub use backward::{Gradient, backward};
pub use chunk::chunk;
pub use naive::naive;

const OP: &str = "linformer";

/// The inputs; `F` is f32, or f64 for the definition.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, F = f32> {
    /// `[B, T, H, D]`
    pub q: ArrayView4<'a, F>,
    /// `[B, S, G, D]`, head `h` reads group `h / (H / G)`
    pub k: ArrayView4<'a, F>,
    /// `[B, S, G, E]`
    pub v: ArrayView4<'a, F>,
    /// The projection of keys, `[L, R]` with `L` at least `S`
    pub e: ArrayView2<'a, F>,
    /// The projection of values, `[L, R]`; that of keys if absent
    pub f: Option<ArrayView2<'a, F>>,
    /// `s`, often `D^{-1/2}`
    pub scale: F,
}

impl<F: Copy + Into<f64>> Inputs<'_, F> {
    fn check(&self) -> Result<(), Error> {
        let ((b, _, h, d), (_, s, g, e)) = (self.q.dim(), self.v.dim());
        error::shape(OP, "k", &[b, s, g, d], self.k.shape())?;
        error::shape(OP, "v", &[b, s, g, e], self.v.shape())?;
        if g == 0 || h % g != 0 {
            return Err(Error::Groups { op: OP, heads: h, groups: g });
        }
        let (most, rank) = self.e.dim();
        error::parameter(OP, "k", s <= most, s, format!("at most the {most} tokens that `e` has rows for"))?;
        error::parameter(OP, "e", rank > 0, rank, "at least one projected key")?;
        error::number(OP, "scale", self.scale)?;
        match &self.f {
            Some(f) => error::shape(OP, "f", &[most, rank], f.shape()),
            None => Ok(()),
        }
    }
}

/// Every query attends to all projected keys.
const ALL: Dense = Dense { causal: false };

/// The softmax inputs over projected keys and values.
fn attention<'a>(x: &'a Inputs<'_>, k: &'a Array4<f32>, v: &'a Array4<f32>) -> softmax::Inputs<'a> {
    softmax::Inputs::scaled(x.q.view(), k.view(), v.view(), x.scale)
}

/// An output for `matmul` in the shape of `x`, with `tokens` tokens.
fn like(x: ArrayView4<'_, f32>, tokens: usize) -> Array4<f32> {
    let (b, _, g, width) = x.dim();
    fresh((b, tokens, g, width))
}
