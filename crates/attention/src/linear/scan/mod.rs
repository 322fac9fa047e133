//! The scan with scalar gates, the kernel of its family: one decay per head and token.
//!
//! $$ S_t = e^{g_t} S_{t-1} + \beta_t\, k_t v_t^\top, \qquad o_t = s\, S_t^\top q_t + \delta\, v_t $$
//!
//! `q k: [B, T, G, K]`, head `h` reads group `h / (H / G)` · `v o: [B, T, H, V]` · `g ≤ 0` and `β`: `[B, T, H]`,
//! absent means 0 and 1 · `δ: [H]`, a skip, absent means 0 · `s` a scale · state `[S, H, K, V]` f32 · O(T H K V) time.
//!
//! Linear attention is the scan without a gate, retention and lightning attention the scan with a constant one, Mamba-2
//! the scan with `β = Δ` and `g = Δ A`. Chunk form: Dao and Gu 2024, §6; Yang et al. 2024 (GLA), §4.

use std::borrow::Cow;

use longreach_simd::cache::NON_TEMPORAL_ABOVE;
use longreach_simd::split::Part;
use ndarray::{ArrayView1, ArrayView3, ArrayView4};

use super::features::Floor;
use super::linear_attention::Map;
use crate::sequences::{Ranges, Rows, contiguous};
use crate::{Error, Sequences, error};

mod backward;
mod chunk;
mod naive;
pub(crate) mod operation;
mod recurrent;
mod step;
mod token;

pub use backward::{Gradient, backward};
pub use chunk::{CHUNK, chunk, chunk_into};
pub use naive::naive;
pub(super) use recurrent::featured;
pub use recurrent::{recurrent, recurrent_into};
pub use step::{step, step_into};

/// The inputs of the scan; `F` is f32, or f64 for the definition.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, F = f32> {
    /// `[B, T, G, K]`
    pub q: ArrayView4<'a, F>,
    /// `[B, T, G, K]`
    pub k: ArrayView4<'a, F>,
    /// `[B, T, H, V]`
    pub v: ArrayView4<'a, F>,
    /// The gate's logarithm, `[B, T, H]`, ≤ 0
    pub g: Option<ArrayView3<'a, F>>,
    /// The strength with which a token is written, `[B, T, H]`
    pub beta: Option<ArrayView3<'a, F>>,
    /// The share of the value that bypasses the state, `[H]`
    pub skip: Option<ArrayView1<'a, F>>,
    /// `s`
    pub scale: F,
    /// How the tokens form sequences.
    pub sequences: Sequences<'a>,
}

const OP: &str = "scan";

/// The sizes of a call.
#[derive(Clone, Copy, Debug)]
struct Dims {
    b: usize,
    t: usize,
    g: usize,
    h: usize,
    k: usize,
    v: usize,
}

impl Dims {
    /// The group that head `h` reads.
    #[inline(always)]
    fn group(&self, h: usize) -> usize {
        h * self.g / self.h
    }
}

impl<F> Inputs<'_, F> {
    fn dims(&self) -> Dims {
        let (b, t, g, k) = self.q.dim();
        let (_, _, h, v) = self.v.dim();
        Dims { b, t, g, h, k, v }
    }

    /// The shape of the state.
    pub fn state_shape(&self) -> [usize; 4] {
        let Dims { b, h, k, v, .. } = self.dims();
        [self.sequences.count(b), h, k, v]
    }
}

impl<F: Copy + Into<f64> + PartialOrd + Default + std::fmt::Debug> Inputs<'_, F> {
    fn check(&self, state: &[usize]) -> Result<(), Error> {
        let Dims { b, t, g, h, k, v } = self.dims();
        error::shape(OP, "k", &[b, t, g, k], self.k.shape())?;
        error::shape(OP, "v", &[b, t, h, v], self.v.shape())?;
        if g == 0 || h % g != 0 {
            return Err(Error::Groups { op: OP, heads: h, groups: g });
        }
        if let Some(gate) = &self.g {
            error::shape(OP, "g", &[b, t, h], gate.shape())?;
            let above = gate.iter().find(|g| **g > F::default());
            error::none(OP, "g", above, "the logarithm of a factor of at most 1: 0 or less")?;
        }
        if let Some(beta) = &self.beta {
            error::shape(OP, "beta", &[b, t, h], beta.shape())?;
        }
        if let Some(skip) = &self.skip {
            error::shape(OP, "skip", &[h], skip.shape())?;
        }
        error::number(OP, "scale", self.scale)?;
        error::shape(OP, "state", &self.state_shape(), state)
    }
}

/// The inputs as one row per token: `[G K]`, `[H V]` or `[H]`.
struct Tokens<'a> {
    dims: Dims,
    ranges: Ranges<'a>,
    q: Rows<'a>,
    k: Rows<'a>,
    v: Rows<'a>,
    g: Option<Rows<'a>>,
    beta: Option<Rows<'a>>,
    /// `[H]`
    skip: Option<Cow<'a, [f32]>>,
    scale: f32,
}

impl<'a> Tokens<'a> {
    fn of(x: &'a Inputs<'_>) -> Result<Self, Error> {
        let dims = x.dims();
        Ok(Self {
            dims,
            ranges: x.sequences.cut(OP, dims.b, dims.t)?,
            q: Rows::of(OP, "q", &x.q)?,
            k: Rows::of(OP, "k", &x.k)?,
            v: Rows::of(OP, "v", &x.v)?,
            g: x.g.as_ref().map(|g| Rows::of(OP, "g", g)).transpose()?,
            beta: x.beta.as_ref().map(|b| Rows::of(OP, "beta", b)).transpose()?,
            skip: x.skip.as_ref().map(contiguous),
            scale: x.scale,
        })
    }

    #[inline(always)]
    fn q(&self, t: usize, h: usize) -> &'a [f32] {
        let at = self.dims.group(h) * self.dims.k;
        &self.q.get(t)[at..at + self.dims.k]
    }

    #[inline(always)]
    fn k(&self, t: usize, h: usize) -> &'a [f32] {
        let at = self.dims.group(h) * self.dims.k;
        &self.k.get(t)[at..at + self.dims.k]
    }

    #[inline(always)]
    fn v(&self, t: usize, h: usize) -> &'a [f32] {
        &self.v.get(t)[h * self.dims.v..(h + 1) * self.dims.v]
    }

    #[inline(always)]
    fn g(&self, t: usize, h: usize) -> f32 {
        self.g.as_ref().map_or(0.0, |g| g.get(t)[h])
    }

    #[inline(always)]
    fn beta(&self, t: usize, h: usize) -> f32 {
        self.beta.as_ref().map_or(1.0, |b| b.get(t)[h])
    }

    #[inline(always)]
    fn skip(&self, h: usize) -> f32 {
        self.skip.as_ref().map_or(0.0, |skip| skip[h])
    }
}

/// One head of one sequence.
struct Head<'a, 'o> {
    x: &'a Tokens<'a>,
    /// The index of the sequence.
    s: usize,
    h: usize,
    out: Part<'o>,
    /// Whether `out` is written with non-temporal stores.
    non_temporal: bool,
    state: &'o mut [f32],
    /// The feature map, if any, and the sums of the features of keys, which the output is divided by if there is a
    /// floor.
    features: Option<(Map, Option<Floor>, &'o mut [f32])>,
}

/// Splits the work by sequence and head; `out` is contiguous `[B, T, H, V]`, `state` `[S, H, K, V]`.
fn heads<'a, 'o>(x: &'a Tokens<'a>, out: &'o mut [f32], state: &'o mut [f32]) -> Vec<Head<'a, 'o>> {
    let Dims { h: heads, k, v, .. } = x.dims;
    let mut list = Vec::with_capacity(x.ranges.len() * heads);
    let mut states = state.chunks_mut((k * v).max(1));
    let non_temporal = out.len() > NON_TEMPORAL_ABOVE;
    let mut rest = out;
    for (s, range) in x.ranges.iter().enumerate() {
        let (mine, others) = rest.split_at_mut(range.len() * heads * v);
        rest = others;
        let mut outs = Part::whole(mine, heads * v).columns(v);
        for h in 0..heads {
            let out = outs.next().unwrap_or_else(Part::empty);
            list.push(Head { x, s, h, out, non_temporal, state: states.next().unwrap_or_default(), features: None });
        }
    }
    list
}
