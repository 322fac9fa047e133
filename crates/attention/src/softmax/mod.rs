//! Softmax attention over subsets of the keys: one block-sparse kernel, and the field's patterns on top of it.
//!
//! A mechanism here is a [`Pattern`], which defines the keys that a query attends to. [`chunk`] computes attention
//! under it, [`backward`] the gradient, [`step`] is for few queries against a long KV cache, and [`naive`] is the
//! definition.
//!
//! ```
//! use longreach_attention::softmax::{self, Inputs, dense::Dense};
//! use longreach_simd::Cx;
//! use ndarray::Array4;
//!
//! let x = Array4::from_elem((1, 10, 2, 64), 0.1f32);
//! let attended = softmax::chunk(&Inputs::new(x.view(), x.view(), x.view()), &Dense { causal: true }, &Cx::new(1))?;
//! assert!((attended.out[[0, 9, 1, 63]] - 0.1).abs() < 1e-6);
//! assert!((attended.lse[[0, 9, 0]] - (10f32.ln() + 0.08)).abs() < 1e-5);
//! # Ok::<(), longreach_attention::Error>(())
//! ```

use half::bf16;
use longreach_simd::product::Q8;
use ndarray::{ArrayBase, ArrayView1, ArrayView2, ArrayView4, Ix4, ViewRepr};

use crate::{Error, Sequences, error};

mod attend;
mod band;
pub mod bigbird;
pub mod deepspeed;
pub mod dense;
pub mod dilated;
mod gather;
pub mod h_transformer_1d;
pub mod hierarchical;
pub mod infllm_v2;
mod layout;
mod limits;
pub mod longformer;
pub mod longnet;
pub mod lsh;
pub mod mask;
pub mod masked;
mod merge;
pub mod moba;
mod naive;
mod named;
pub mod nsa;
pub(crate) mod operation;
mod packed_sequences;
mod phases;
mod picture;
mod random;
mod selected;
pub mod sparse_transformer;
pub mod streaming;
mod tile;
pub mod window;

pub use attend::{Attend, Patterned};
pub use layout::{Layout, Visit};
pub use mask::{BlockMask, Packing, Pattern, Sizes};
pub use merge::merge;
pub use naive::naive;
pub use named::{STATIC, mechanism, named};
pub use picture::picture;
pub use selected::Selected;
pub use tile::{Cotangent, Gradient, Output, OutputView, backward, forward as chunk, step};

/// Queries, keys and values, and the options of scores. `T` is f32 or bf16, or f64 for the definition; `F` is the type
/// of scores.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, T = f32, F = f32> {
    /// `[B, T, H, D]`
    pub q: ArrayView4<'a, T>,
    /// `[B, S, G, D]`, head `h` reads group `h / (H / G)`
    pub k: ArrayView4<'a, T>,
    /// `[B, S, G, E]`
    pub v: ArrayView4<'a, T>,
    /// Keys and values before `k` and `v` in segments, oldest first: those of a KV cache that is not contiguous. `S`
    /// then counts these too. All that are not empty, and `k` and `v` if these are not, have one type: f32, bf16 or blocks of Q8_0. [`chunk`] and
    /// [`step`] read them; other mechanisms and gradients accept none.
    pub earlier: &'a [[Segment<'a>; 2]],
    /// `s`, often `D^{-1/2}`
    pub scale: F,
    /// The position of the first query among the keys.
    pub offset: usize,
    /// `c` of the soft-cap `c tanh(x / c)`
    pub softcap: Option<F>,
    /// Added to the scores, `[B or 1, H or 1, T, S]`
    pub bias: Option<ArrayView4<'a, F>>,
    /// Slopes `m`, `[H]`: `m |i − j|` is subtracted from the scores (Press et al. 2022, ALiBi; [`alibi`])
    pub alibi: Option<ArrayView1<'a, F>>,
    /// One logit per head that takes part in the softmax but has no value, `[H]`
    pub sinks: Option<ArrayView1<'a, F>>,
    /// The logarithm of how often each key counts, `[B, S]`; a constant to the gradient
    pub weights: Option<ArrayView2<'a, F>>,
    /// The padding mask, `[B, S]`: true for tokens
    pub keep: Option<ArrayView2<'a, bool>>,
    /// How the keys form sequences; a query attends to keys of its own sequence.
    pub sequences: Sequences<'a>,
}

/// An array view. Its third argument is written out, by default it is an associated type, which would not let a
/// lifetime be shortened.
pub(crate) type View<'a, T, D> = ArrayBase<ViewRepr<&'a T>, D, T>;

/// Keys or values of a KV cache, `[B, n, G, D]`.
#[derive(Clone, Copy, Debug)]
pub enum Segment<'a> {
    /// In f32.
    F32(View<'a, f32, Ix4>),
    /// In bf16.
    Bf16(View<'a, bf16, Ix4>),
    /// In blocks of Q8_0: `[B, n, G, D / 32]`. Where `D` is no multiple of 32, the last block of a row is filled up with zeros, and
    /// so must queries be.
    Q8(View<'a, Q8, Ix4>),
}

impl Segment<'_> {
    /// `[B, n, G, D]`
    pub fn shape(&self) -> [usize; 4] {
        let ((b, n, g, elements), numbers) = match self {
            Segment::F32(x) => (x.dim(), 1),
            Segment::Bf16(x) => (x.dim(), 1),
            Segment::Q8(x) => (x.dim(), Q8::BLOCK),
        };
        [b, n, g, numbers * elements]
    }
}

impl<'a, T> Inputs<'a, T> {
    /// Attention with scale `D^{-1/2}` and no options.
    pub fn new(q: ArrayView4<'a, T>, k: ArrayView4<'a, T>, v: ArrayView4<'a, T>) -> Self {
        let scale = (q.dim().3 as f32).powf(-0.5);
        Self::scaled(q, k, v, scale)
    }
}

impl<'a, T, F> Inputs<'a, T, F> {
    /// Attention with this scale and no options.
    pub fn scaled(q: ArrayView4<'a, T>, k: ArrayView4<'a, T>, v: ArrayView4<'a, T>, scale: F) -> Self {
        Self {
            q,
            k,
            v,
            earlier: &[],
            scale,
            offset: 0,
            softcap: None,
            bias: None,
            alibi: None,
            sinks: None,
            weights: None,
            keep: None,
            sequences: Sequences::Batch,
        }
    }
}

impl<T, F: Copy + Into<f64>> Inputs<'_, T, F> {
    /// Checks all shapes and numbers, and that the keys are one segment. Returns the sizes for patterns, and the number
    /// of groups.
    fn sizes(&self, op: &'static str) -> Result<(Sizes, usize), Error> {
        let found = format!("{} earlier segments", self.earlier.len());
        error::parameter(op, "earlier", self.earlier.is_empty(), found, "keys and values in one segment")?;
        self.sizes_of_segments(op)
    }

    /// As [`Inputs::sizes`], for keys in any number of segments.
    fn sizes_of_segments(&self, op: &'static str) -> Result<(Sizes, usize), Error> {
        let (b, t, h, d) = self.q.dim();
        let (_, last, g, e) = self.v.dim();
        let mut s = last;
        for [k, v] in self.earlier {
            let n = v.shape()[1];
            error::shape(op, "earlier k", &[b, n, g, d], &k.shape())?;
            error::shape(op, "earlier v", &[b, n, g, e], &v.shape())?;
            s += n;
        }
        error::shape(op, "k", &[b, last, g, d], self.k.shape())?;
        error::shape(op, "v", &[b, last, g, e], self.v.shape())?;
        if g == 0 || h % g != 0 {
            return Err(Error::Groups { op, heads: h, groups: g });
        }
        error::some(op, [("D", d), ("E", e)])?;
        if let Some(bias) = &self.bias {
            let one = |n: usize, of: usize| if n == 1 { 1 } else { of };
            error::shape(op, "bias", &[one(bias.dim().0, b), one(bias.dim().1, h), t, s], bias.shape())?;
        }
        if let Some(alibi) = &self.alibi {
            error::shape(op, "alibi", &[h], alibi.shape())?;
        }
        if let Some(sinks) = &self.sinks {
            error::shape(op, "sinks", &[h], sinks.shape())?;
        }
        if let Some(weights) = &self.weights {
            error::shape(op, "weights", &[b, s], weights.shape())?;
        }
        if let Some(keep) = &self.keep {
            error::shape(op, "keep", &[b, s], keep.shape())?;
        }
        error::number(op, "scale", self.scale)?;
        if let Some(cap) = self.softcap.map(Into::into) {
            // The soft-cap is also divided by.
            let fits = cap > 0.0 && cap <= f64::from(f32::MAX) && (1.0 / cap) <= f64::from(f32::MAX);
            error::parameter(op, "softcap", fits, cap, "a positive number that f32 can hold, and its inverse too")?;
        }
        let last = self.offset.checked_add(t).filter(|last| *last <= isize::MAX as usize);
        error::parameter(
            op,
            "offset",
            last.is_some(),
            self.offset,
            format!("at most {} less {t} queries", isize::MAX),
        )?;
        Ok((Sizes { batch: b, heads: h, queries: self.offset..self.offset + t, keys: s }, g))
    }
}

/// The slopes of ALiBi: `2^{-8(h+1)/H}` if `H` is a power of two; otherwise those of the largest power of two `P`
/// below, followed by every second one of `2P`. Press et al. 2022, §3, and the authors' code.
pub fn alibi(heads: usize) -> Vec<f32> {
    let of = |n: usize| (1..=n).map(move |h| (2f64).powf(-8.0 * h as f64 / n as f64) as f32);
    if heads.is_power_of_two() {
        return of(heads).collect();
    }
    let below = heads.next_power_of_two() / 2;
    of(below).chain(of(2 * below).step_by(2)).take(heads).collect()
}
