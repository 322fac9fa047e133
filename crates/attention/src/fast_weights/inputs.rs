//! The inputs of a call and their gradients.

use std::fmt::Debug;

use ndarray::{Array2, Array3, Array4, ArrayD, ArrayView1, ArrayView2, ArrayView3, ArrayView4};

use crate::{Error, Sequences, error};

/// The logarithm of the factor by which the state decays at each token.
#[derive(Clone, Copy, Debug)]
pub enum Gate<'a, F = f32> {
    /// No decay.
    None,
    /// One gate per head, `[B, T, H]`.
    Token(ArrayView3<'a, F>),
    /// One gate per key channel, `[B, T, H, K]`.
    Key(ArrayView4<'a, F>),
    /// One gate per key channel with tied keys, `k = 1 − e^g`; the `k` of the inputs is ignored.
    TiedKeys(ArrayView4<'a, F>),
}

/// What is erased from the state before a token is written.
#[derive(Clone, Copy, Debug)]
pub enum Erase<'a, F = f32> {
    /// No erasure.
    None,
    /// The delta rule: the token's key erases what it reads, with the strength `β`, which also scales the value.
    Own(ArrayView3<'a, F>),
    /// `b_t (S_{t-1}ᵀ a_t)ᵀ` is added to the state.
    General {
        /// What reads the vector to be erased, `[B, T, H, K]`
        a: ArrayView4<'a, F>,
        /// With which that vector is written, `[B, T, H, K]`
        b: ArrayView4<'a, F>,
    },
    /// RWKV-7: `General` with `a = κ̂` and `b = −κ̂ ⊙ a`. Gradients are those to the general `a` and `b`.
    Rate {
        /// The removal key `κ̂`, `[B, T, H, K]`
        kappa: ArrayView4<'a, F>,
        /// The rate of erasure, `[B, T, H, K]`
        a: ArrayView4<'a, F>,
    },
}

/// The inputs of a call; `F` is f32, or f64 for the definitions.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, F = f32> {
    /// The name of the mechanism, for errors.
    pub op: &'static str,
    /// `[B, T, G, K]`, head `h` reads group `h / (H / G)`
    pub q: ArrayView4<'a, F>,
    /// `[B, T, G, K]`
    pub k: ArrayView4<'a, F>,
    /// `[B, T, H, V]`
    pub v: ArrayView4<'a, F>,
    /// How the state decays.
    pub gate: Gate<'a, F>,
    /// What is erased from it.
    pub erase: Erase<'a, F>,
    /// The bonus `u`, `[H, K]`, with which the state is read before it is written. Not combined with erasure.
    pub bonus: Option<ArrayView2<'a, F>>,
    /// `s`
    pub scale: F,
    /// How the tokens form sequences.
    pub sequences: Sequences<'a>,
}

impl<F> Inputs<'_, F> {
    /// The shape of the state.
    pub fn state_shape(&self) -> [usize; 4] {
        let ((b, _, _, k), (_, _, h, v)) = (self.q.dim(), self.v.dim());
        [self.sequences.count(b), h, k, v]
    }
}

impl<F: Copy + Into<f64> + PartialOrd + Default + Debug> Inputs<'_, F> {
    /// Checks all shapes, and that no gate is above 0.
    pub(crate) fn check(&self, state: &[usize]) -> Result<Dims, Error> {
        let dims = self.shapes(state)?;
        let positive_gate = match &self.gate {
            Gate::None => None,
            Gate::Token(gate) => gate.iter().find(|g| **g > F::default()),
            Gate::Key(gate) | Gate::TiedKeys(gate) => gate.iter().find(|g| **g > F::default()),
        };
        error::none(self.op, "g", positive_gate, "the logarithm of a factor of at most 1: 0 or less")?;
        Ok(dims)
    }

    pub(super) fn shapes(&self, state: &[usize]) -> Result<Dims, Error> {
        let op = self.op;
        let ((b, t, g, k), (_, _, h, v)) = (self.q.dim(), self.v.dim());
        error::shape(op, "k", &[b, t, g, k], self.k.shape())?;
        error::shape(op, "v", &[b, t, h, v], self.v.shape())?;
        if g == 0 || h % g != 0 {
            return Err(Error::Groups { op, heads: h, groups: g });
        }
        match &self.gate {
            Gate::None => {}
            Gate::Token(gate) => error::shape(op, "g", &[b, t, h], gate.shape())?,
            Gate::Key(gate) | Gate::TiedKeys(gate) => error::shape(op, "g", &[b, t, h, k], gate.shape())?,
        }
        match &self.erase {
            Erase::None => {}
            Erase::Own(beta) => error::shape(op, "beta", &[b, t, h], beta.shape())?,
            Erase::General { a, b: into } => {
                error::shape(op, "a", &[b, t, h, k], a.shape())?;
                error::shape(op, "b", &[b, t, h, k], into.shape())?;
            }
            Erase::Rate { kappa, a } => {
                error::shape(op, "kappa", &[b, t, h, k], kappa.shape())?;
                error::shape(op, "a", &[b, t, h, k], a.shape())?;
            }
        }
        if let Some(bonus) = &self.bonus {
            error::shape(op, "u", &[h, k], bonus.shape())?;
        }
        error::number(op, "scale", self.scale)?;
        error::shape(op, "state", &self.state_shape(), state)?;
        Ok(Dims { b, t, g, h, k, v })
    }
}

impl Dims {
    /// Iterates over all tokens of all sequences and heads, in order, as
    /// `[sequence, batch row, token in the row, head, group]`.
    pub(crate) fn tokens(
        self,
        op: &'static str,
        sequences: Sequences<'_>,
    ) -> Result<impl Iterator<Item = [usize; 5]>, Error> {
        let ranges = sequences.ranges(op, self.b, self.t)?;
        Ok(ranges.into_iter().enumerate().flat_map(move |(s, range)| {
            range.flat_map(move |i| (0..self.h).map(move |h| [s, i / self.t, i % self.t, h, h * self.g / self.h]))
        }))
    }
}

/// `a bᵀ`
pub(crate) fn outer(a: ArrayView1<'_, f64>, b: ArrayView1<'_, f64>) -> Array2<f64> {
    Array2::from_shape_fn((a.len(), b.len()), |(i, j)| a[i] * b[j])
}

/// The sizes of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dims {
    pub(crate) b: usize,
    pub(crate) t: usize,
    pub(crate) g: usize,
    pub(crate) h: usize,
    pub(crate) k: usize,
    pub(crate) v: usize,
}

/// Gradients to the inputs; empty for inputs that a mechanism does not have.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// `[B, T, G, K]`
    pub q: Array4<f32>,
    /// `[B, T, G, K]`
    pub k: Array4<f32>,
    /// `[B, T, H, V]`
    pub v: Array4<f32>,
    /// Of the shape of the gate, `[B, T, H]` or `[B, T, H, K]`
    pub g: ArrayD<f32>,
    /// `[B, T, H]`
    pub beta: Array3<f32>,
    /// `[B, T, H, K]`
    pub a: Array4<f32>,
    /// `[B, T, H, K]`
    pub b: Array4<f32>,
    /// `[H, K]`
    pub u: Array2<f32>,
    /// To the state before the first token, `[S, H, K, V]`
    pub state: Array4<f32>,
}
