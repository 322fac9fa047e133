//! Transformer-XL: attention over a memory and the tokens of a segment, by content and by distance.
//!
//! $$ o_i = \sum_{j \le i + M} \mathrm{softmax}_j\!\left( s\,\big( (q_i + u)^\top k_j + (q_i + w)^\top r_{i + M - j} \big) \right) v_j $$
//!
//! Keys and values are those of `M` remembered tokens and of the `T` of the segment, `S = M + T`; `r_n` stands for a distance of `n` tokens. The memory itself,
//! the inputs of a layer to tokens before, and what makes keys of it belong to the layer. O(T S H (D + E)) time, O(S H D) memory beside the inputs and
//! outputs: scores by distance exist for some queries at a time. Dai et al. 2019, §3.3 and appendix B.

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
    /// `[B, S, H, D]`, those of the memory first
    pub k: ArrayView4<'a, F>,
    /// `[B, S, H, E]`
    pub v: ArrayView4<'a, F>,
    /// `[R, H, D]`, row `n` for a distance of `n` tokens; at least `S` rows
    pub r: ArrayView3<'a, F>,
    /// Added to queries where they meet keys, `[H, D]`
    pub u: Option<ArrayView2<'a, F>>,
    /// Added to queries where they meet distances, `[H, D]`
    pub w: Option<ArrayView2<'a, F>>,
    /// `s`, often `D^{-1/2}`
    pub scale: F,
    /// How far back a query sees, where not to the first key
    pub left: Option<usize>,
}

impl<'a, F: Copy + Into<f64>> Inputs<'a, F> {
    /// Attention with this scale, without biases, to the first key.
    pub fn new(
        q: ArrayView4<'a, F>,
        k: ArrayView4<'a, F>,
        v: ArrayView4<'a, F>,
        r: ArrayView3<'a, F>,
        scale: F,
    ) -> Self {
        Self { q, k, v, r, u: None, w: None, scale, left: None }
    }

    /// Checks all shapes; how many tokens are remembered.
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

/// What queries see: all keys up to their own, or the last of them.
fn pattern(left: Option<usize>) -> Box<dyn Pattern> {
    match left {
        Some(left) => Box::new(Window { left, right: 0 }),
        None => Box::new(Dense { causal: true }),
    }
}

/// Some queries at a time, so that their scores by distance take little memory.
struct Block {
    /// The first query and how many there are.
    first: usize,
    tokens: usize,
    /// The keys that they see, of them all the first and how many.
    low: usize,
    keys: usize,
}

impl Inputs<'_> {
    /// The queries in blocks; `memory` tokens are remembered.
    fn blocks(&self, memory: usize) -> impl Iterator<Item = Block> + use<> {
        /// Numbers that scores by distance may take.
        const ROOM: usize = 16 << 20;
        let ((b, t, h, _), s, left) = (self.q.dim(), self.k.dim().1, self.left);
        let most = (ROOM / (b * h * s).max(1)).clamp(16, 128);
        (0..t).step_by(most).map(move |first| {
            let tokens = most.min(t - first);
            let low = left.map_or(0, |left| (memory + first).saturating_sub(left));
            Block { first, tokens, low, keys: memory + first + tokens - low }
        })
    }

    /// Distances from the greatest to 0, by head: `[H, S, D]`.
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

    /// Some queries, with a bias.
    fn queries(&self, block: &Block, bias: &Option<ArrayView2<'_, f32>>) -> Array4<f32> {
        let mut q = self.q.slice(ndarray::s![.., block.first..block.first + block.tokens, .., ..]).to_owned();
        if let Some(bias) = bias {
            q += bias;
        }
        q
    }

    /// Attention of a block, given its queries and what distances add to its scores.
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
