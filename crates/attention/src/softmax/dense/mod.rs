//! Dense attention: every query sees every key, or every key up to its own position.
//!
//! $$ o_i = \sum_{j \in N(i)} \mathrm{softmax}_j(y_{ij})\, v_j, \qquad y_{ij} = \tau(s\,q_i^\top k_j) + b_{ij} $$
//!
//! `q: [B, T, H, D]` · `k: [B, S, G, D]` · `v: [B, S, G, E]`, head `h` reads group `h / (H / G)` · O(T S H (D + E)) time, O(T H E) memory.
//! With a causal mask query `i` stands at position `offset + i` and sees the keys up to there.
//! Vaswani et al. 2017, eq. 1; grouped heads: Ainslie et al. 2023.

use ndarray::{ArrayView1, ArrayView4};

use super::mask::{Cut, Entry, Seen};

mod chunk;
mod naive;

pub use chunk::chunk;
pub use naive::naive;

/// The inputs; `T` is f32 or bf16, or f64 for the definition; `F` is what scores are computed in.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, T = f32, F = f32> {
    /// `[B, T, H, D]`
    pub q: ArrayView4<'a, T>,
    /// `[B, S, G, D]`
    pub k: ArrayView4<'a, T>,
    /// `[B, S, G, E]`
    pub v: ArrayView4<'a, T>,
    /// `s`, often `D^{-1/2}`
    pub scale: F,
    /// `c` of the soft-cap `c tanh(x / c)`, where there is one
    pub softcap: Option<F>,
    /// Added to the scores, `[B or 1, H or 1, T, S]`
    pub bias: Option<ArrayView4<'a, F>>,
    /// A score a head that competes with the keys and has no value, `[H]`
    pub sinks: Option<ArrayView1<'a, F>>,
    /// Whether the future is hidden; then the position of the first query among the keys.
    pub causal: Option<usize>,
}

const OP: &str = "dense";
/// Tokens of a block.
const BLOCK: usize = 64;

/// Keys up to the query's own position; all keys without one.
#[derive(Clone, Copy, Debug)]
struct Causal(Option<usize>);

impl Causal {
    /// How many keys query `i` sees of `s`.
    fn keys(self, i: usize, s: usize) -> usize {
        self.0.map_or(s, |offset| (offset + i + 1).min(s))
    }

    fn blocks(self, i: usize, t: usize, s: usize, row: &mut Vec<Entry>) {
        let (first, last) = (i * BLOCK, ((i + 1) * BLOCK).min(t) - 1);
        let (all, some) = (self.keys(first, s), self.keys(last, s));
        for keys in 0..some.div_ceil(BLOCK) {
            let whole = ((keys + 1) * BLOCK).min(s) <= all;
            row.push(if whole { Entry::full(keys) } else { Entry::cut(keys) });
        }
    }
}

impl Cut for Causal {
    fn sees(&self, _: usize, _: usize, i: usize, j: usize) -> bool {
        self.0.is_none_or(|offset| j <= offset + i)
    }

    fn row(&self, _: usize, _: usize, i: usize, keys: std::ops::Range<usize>) -> Seen {
        Seen::Span(keys.start..self.keys(i, keys.end))
    }
}
