//! Transformer-XL: attention over a cached memory and the tokens of a segment, by content and relative position.
//!
//! $$ o_i = \sum_{j \le i + M} \mathrm{softmax}_j\!\left( s\,\big( (q_i + u)^\top k_j + (q_i + w)^\top r_{i + M - j} \big) \right) v_j $$
//!
//! Keys and values are those of `M` cached tokens and of the segment's `T`, `S = M + T`; `r_n` encodes a distance of
//! `n` tokens. Caching the layer's inputs and projecting them to keys and values is up to the caller. O(T S H (D + E))
//! time, O(S H D) memory beside the inputs and outputs: position scores exist for a block of queries at a time. Dai et
//! al. 2019, §3.3 and appendix B.

use ndarray::{Array4, ArrayView2, ArrayView3, ArrayView4};

use crate::softmax::dense::Dense;
use crate::softmax::window::Window;
use crate::softmax::{self, Pattern};
use crate::{Error, error};

mod backward;
mod chunk;
mod naive;
pub(crate) mod operation;
mod step;

pub use backward::{Gradient, backward};
pub use chunk::chunk;
pub use naive::naive;
pub use step::step;

const OP: &str = "transformer_xl";

/// The inputs; `F` is f32, or f64 for the definition.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, F = f32> {
    /// `[B, T, H, D]`
    pub q: ArrayView4<'a, F>,
    /// `[B, S, H, D]`, cached ones first
    pub k: ArrayView4<'a, F>,
    /// `[B, S, H, E]`
    pub v: ArrayView4<'a, F>,
    /// `[R, H, D]`, row `n` for a distance of `n` tokens; at least `S` rows
    pub r: ArrayView3<'a, F>,
    /// Content bias, added to queries in products with keys, `[H, D]`
    pub u: Option<ArrayView2<'a, F>>,
    /// Position bias, added to queries in products with `r`, `[H, D]`
    pub w: Option<ArrayView2<'a, F>>,
    /// `s`, often `D^{-1/2}`
    pub scale: F,
    /// The attention window to the left, or `None` for all keys
    pub left: Option<usize>,
}

impl<'a, F: Copy + Into<f64>> Inputs<'a, F> {
    /// Attention with this scale over all keys, without biases.
    pub fn new(
        q: ArrayView4<'a, F>,
        k: ArrayView4<'a, F>,
        v: ArrayView4<'a, F>,
        r: ArrayView3<'a, F>,
        scale: F,
    ) -> Self {
        Self { q, k, v, r, u: None, w: None, scale, left: None }
    }

    /// Checks all shapes and returns the number of cached tokens.
    fn check(&self) -> Result<usize, Error> {
        let ((b, t, h, d), (_, s, _, e)) = (self.q.dim(), self.v.dim());
        error::some(OP, [("H", h), ("D", d), ("E", e)])?;
        error::shape(OP, "k", &[b, s, h, d], self.k.shape())?;
        error::shape(OP, "v", &[b, s, h, e], self.v.shape())?;
        error::parameter(OP, "k", s >= t, s, format!("at least {t} tokens, as many as there are queries"))?;
        let rows = self.r.dim().0;
        error::parameter(OP, "r", rows >= s, rows, format!("at least {s} rows, one for each distance"))?;
        error::shape(OP, "r", &[rows, h, d], self.r.shape())?;
        error::number(OP, "scale", self.scale)?;
        for (name, bias) in [("u", &self.u), ("w", &self.w)] {
            if let Some(bias) = bias {
                error::shape(OP, name, &[h, d], bias.shape())?;
            }
        }
        Ok(s - t)
    }
}

/// The causal pattern, with a window if `left` is given.
fn pattern(left: Option<usize>) -> Box<dyn Pattern> {
    match left {
        Some(left) => Box::new(Window { left, right: 0 }),
        None => Box::new(Dense { causal: true }),
    }
}

/// A block of queries, which bounds the memory for their position scores.
struct Block {
    /// The first query and the number of queries.
    first: usize,
    tokens: usize,
    /// The keys that they attend to: the first and the number.
    low: usize,
    keys: usize,
}

impl Inputs<'_> {
    /// Splits the queries into blocks; `memory` tokens are cached.
    fn blocks(&self, memory: usize) -> impl Iterator<Item = Block> + use<> {
        /// The most numbers of position scores at a time.
        const ROOM: usize = 16 << 20;
        let ((b, t, h, _), s, left) = (self.q.dim(), self.k.dim().1, self.left);
        let most = (ROOM / (b * h * s).max(1)).clamp(16, 128);
        (0..t).step_by(most).map(move |first| {
            let tokens = most.min(t - first);
            let low = left.map_or(0, |left| (memory + first).saturating_sub(left));
            Block { first, tokens, low, keys: memory + first + tokens - low }
        })
    }

    /// The rows of `r` from the largest distance to 0, per head: `[H, S, D]`.
    fn table(&self) -> Vec<f32> {
        let ((_, h, d), s) = (self.r.dim(), self.k.dim().1);
        let mut table = Vec::with_capacity(h * s * d);
        for h in 0..h {
            for n in (0..s).rev() {
                table.extend(self.r.slice(ndarray::s![n, h, ..]));
            }
        }
        table
    }

    /// A block of queries plus a bias.
    fn queries(&self, block: &Block, bias: &Option<ArrayView2<'_, f32>>) -> Array4<f32> {
        let mut q = self.q.slice(ndarray::s![.., block.first..block.first + block.tokens, .., ..]).to_owned();
        if let Some(bias) = bias {
            q += bias;
        }
        q
    }

    /// The softmax inputs of a block, given its queries and position scores.
    fn attention<'a>(
        &'a self,
        block: &Block,
        memory: usize,
        q: &'a Array4<f32>,
        bias: &'a Array4<f32>,
    ) -> softmax::Inputs<'a> {
        let keys = block.low..block.low + block.keys;
        let k = self.k.slice(ndarray::s![.., keys.clone(), .., ..]).reborrow();
        let v = self.v.slice(ndarray::s![.., keys, .., ..]).reborrow();
        softmax::Inputs {
            offset: memory + block.first - block.low,
            bias: Some(bias.view()),
            ..softmax::Inputs::scaled(q.view(), k, v, self.scale)
        }
    }
}
