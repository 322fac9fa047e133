//! Infini-attention: softmax attention inside a segment, and a linear-attention memory of all earlier segments.
//!
//! $$ o = \sigma(\beta) \odot \frac{\phi(q)\,M}{\max(\phi(q)\,z, \epsilon)} + (1 - \sigma(\beta)) \odot \mathrm{softmax}(s\,q k^\top)\, v $$
//!
//! and at the end of a segment, with `φ = elu + 1`,
//!
//! $$ M \leftarrow M + \phi(k)^\top v \quad\text{or}\quad M + \phi(k)^\top \Big(v - \frac{\phi(k)\,M}{\max(\phi(k)\,z, \epsilon)}\Big), \qquad z \leftarrow z + \textstyle\sum \phi(k). $$
//!
//! An empty memory (`z = 0`) is not read and not gated: the output is local attention alone. The memory has no
//! positions; local attention may use separate queries and keys, such as rotated ones. All heads of a group share a
//! memory. O(T s H (K + V) + T H K V) time for segments of `s` tokens; the state has `G K (V + 1)` numbers, as many for
//! the pending update of the current segment, and that segment's keys and values. Munkhdalai et al. 2024
//! (Infini-attention).

use ndarray::{Array4, ArrayView1, ArrayView4, s};

use crate::{Error, error};

mod backward;
mod chunk;
mod compressive_memory;
mod local_attention;
mod naive;
pub(crate) mod operation;
mod step;

pub use backward::{Gradient, backward};
pub use chunk::chunk;
pub use naive::naive;
pub use step::step;

const OP: &str = "infini";

/// The inputs; `F` is f32, or f64 for the definition.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, F = f32> {
    /// `[B, T, H, K]`
    pub q: ArrayView4<'a, F>,
    /// `[B, T, G, K]`, head `h` reads group `h / (H / G)`
    pub k: ArrayView4<'a, F>,
    /// `[B, T, G, V]`
    pub v: ArrayView4<'a, F>,
    /// Queries and keys of local attention, if they differ from those of the memory
    pub local: Option<[ArrayView4<'a, F>; 2]>,
    /// `β`, `[H]`: each head's gate before the sigmoid, the weight of the memory
    pub gate: ArrayView1<'a, F>,
    /// Tokens of a segment
    pub segment: usize,
    /// The delta rule: whether the value that the memory returns for a key is subtracted before writing.
    pub delta: bool,
    /// `ε`
    pub epsilon: F,
    /// `s`, often `K^{-1/2}`
    pub scale: F,
}

/// The state between calls.
#[derive(Clone, Debug, PartialEq)]
pub struct State<F = f32> {
    /// `M`, and `z` as the last column, `[B, G, K, V + 1]`
    pub memory: Array4<F>,
    /// The pending update of the current segment, of the memory's shape.
    pub pending: Array4<F>,
    /// Local keys of the current segment, `[B, n, G, K]`; `n` is less than a segment
    pub keys: Array4<F>,
    /// Their values, `[B, n, G, V]`
    pub values: Array4<F>,
}

impl<F: Clone + Default> State<F> {
    /// The initial state of a text.
    pub fn new(batch: usize, groups: usize, key: usize, value: usize) -> Self {
        let zeros = |shape| Array4::from_elem(shape, F::default());
        Self {
            memory: zeros((batch, groups, key, value + 1)),
            pending: zeros((batch, groups, key, value + 1)),
            keys: zeros((batch, 0, groups, key)),
            values: zeros((batch, 0, groups, value)),
        }
    }
}

impl<'a, F: Copy + Into<f64>> Inputs<'a, F> {
    /// Checks all shapes and returns the number of cached tokens of the current segment.
    fn check(&self, state: &State<F>) -> Result<usize, Error> {
        let ((b, t, h, k), (_, _, g, v)) = (self.q.dim(), self.v.dim());
        error::shape(OP, "k", &[b, t, g, k], self.k.shape())?;
        error::shape(OP, "v", &[b, t, g, v], self.v.shape())?;
        if g == 0 || h % g != 0 {
            return Err(Error::Groups { op: OP, heads: h, groups: g });
        }
        error::some(OP, [("H", h), ("K", k), ("V", v)])?;
        if let Some([ql, kl]) = &self.local {
            error::shape(OP, "ql", &[b, t, h, k], ql.shape())?;
            error::shape(OP, "kl", &[b, t, g, k], kl.shape())?;
        }
        error::shape(OP, "gate", &[h], self.gate.shape())?;
        error::parameter(OP, "segment", self.segment > 0, self.segment, "at least 1 token")?;
        error::number(OP, "epsilon", self.epsilon)?;
        error::number(OP, "scale", self.scale)?;
        error::shape(OP, "state", &[b, g, k, v + 1], state.memory.shape())?;
        error::shape(OP, "pending", &[b, g, k, v + 1], state.pending.shape())?;
        let n = state.keys.dim().1;
        error::shape(OP, "keys", &[b, n, g, k], state.keys.shape())?;
        error::shape(OP, "values", &[b, n, g, v], state.values.shape())?;
        let want = format!("fewer tokens than a segment's {}", self.segment);
        error::parameter(OP, "keys", n < self.segment, n, want)?;
        Ok(n)
    }

    /// The queries and keys of local attention.
    fn local(&self) -> [ArrayView4<'a, F>; 2] {
        self.local.unwrap_or([self.q, self.k])
    }

    /// The keys and values of the current segment after these tokens; `seen` of its tokens are cached.
    fn under_way(&self, seen: usize, state: &State<F>) -> [Array4<F>; 2] {
        let t = self.q.dim().1;
        let n = (seen + t) % self.segment;
        let (new, old) = (n.min(t), n - n.min(t));
        let joined = |old_rows: &Array4<F>, rows: ArrayView4<'_, F>| {
            let kept = old_rows.slice(s![.., old_rows.dim().1 - old.., .., ..]);
            let new = rows.slice(s![.., t - new.., .., ..]);
            ndarray::concatenate(ndarray::Axis(1), &[kept, new]).unwrap_or_else(|_| rows.to_owned())
        };
        [joined(&state.keys, self.local()[1]), joined(&state.values, self.v)]
    }
}

/// Splits the tokens at segment boundaries: the ranges, and whether the segment ends with each.
fn pieces(
    tokens: usize,
    seen: usize,
    segment: usize,
) -> impl DoubleEndedIterator<Item = (std::ops::Range<usize>, bool)> {
    let count = if tokens == 0 { 0 } else { (seen + tokens).div_ceil(segment) };
    (0..count).map(move |i| {
        let [first, end] = [i * segment, (i + 1) * segment];
        (first.saturating_sub(seen)..(end - seen).min(tokens), end - seen <= tokens)
    })
}
