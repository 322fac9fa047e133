//! MaxSim, the late-interaction score of a query and a passage with one vector per token: the sum over query tokens of the best match.
//!
//! $$ s = \sum_i \max_j q_i \cdot d_j $$
//!
//! Khattab and Zaharia 2020 (ColBERT), §3.3. Exact: all dot products are computed, in tiles of two vectors of query tokens by twelve passage tokens, and the
//! maxima stay in registers. O(queries × tokens × width) time; no memory besides the scores and a transposed copy of the query.

use longreach_simd::product::{Matrix, pack_transposed, strip};
use longreach_simd::{Cx, Kernel, Lanes};

/// Passage tokens per tile.
const ROWS: usize = 12;
/// Passages per task.
const TASK: usize = 16;

/// The scores of passages for a query of shape `[queries, width]`. Passage `p` is the rows `bounds[p]..bounds[p + 1]` of `tokens`, of shape
/// `[tokens, width]`; a passage without tokens scores −∞.
///
/// Panics if a length is not a multiple of `width`, or if the bounds decrease or exceed the number of tokens.
pub fn scores(cx: &Cx, query: &[f32], width: usize, tokens: &[f32], bounds: &[usize]) -> Vec<f32> {
    assert!(width > 0 && query.len().is_multiple_of(width) && tokens.len().is_multiple_of(width), "rows of {width}");
    assert!(bounds.windows(2).all(|w| w[0] <= w[1]) && bounds.last().is_none_or(|end| end * width <= tokens.len()));
    let mut scores = vec![0.0; bounds.len().saturating_sub(1)];
    let panels = cx.isa.run(Panels { query, width });
    cx.team.for_each(scores.chunks_mut(TASK).enumerate(), |(i, scores)| {
        let bounds = &bounds[i * TASK..];
        cx.isa.run(Score { panels: &panels, queries: query.len() / width, width, tokens, bounds, scores });
    });
    scores
}

/// Packs the query into transposed panels of shape `[width, LANES]`, an even number of them, padded with zeros.
struct Panels<'a> {
    query: &'a [f32],
    width: usize,
}

impl Kernel for Panels<'_> {
    type Output = Vec<f32>;
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) -> Vec<f32> {
        let rows: Vec<&[f32]> = self.query.chunks_exact(self.width).collect();
        let panels = rows.len().div_ceil(S::LANES).next_multiple_of(2);
        let mut out = vec![0.0; panels * self.width * S::LANES];
        for (rows, panel) in rows.chunks(S::LANES).zip(out.chunks_mut(self.width * S::LANES)) {
            pack_transposed(s, rows, self.width, panel);
        }
        out
    }
}

struct Score<'a> {
    panels: &'a [f32],
    queries: usize,
    width: usize,
    tokens: &'a [f32],
    bounds: &'a [usize],
    scores: &'a mut [f32],
}

impl Kernel for Score<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(self, s: S) {
        let Self { panels, queries, width, tokens, bounds, scores } = self;
        let panel = width * S::LANES;
        for (p, score) in scores.iter_mut().enumerate() {
            let rows = &tokens[bounds[p] * width..bounds[p + 1] * width];
            let n = bounds[p + 1] - bounds[p];
            if n == 0 {
                *score = f32::NEG_INFINITY;
                continue;
            }
            let mut sum = 0.0;
            for (i, two) in panels.chunks_exact(2 * panel).enumerate() {
                let b = [&two[..panel], &two[panel..]];
                let mut best = [s.splat(f32::NEG_INFINITY); 2];
                let mut t = 0;
                while t + ROWS <= n {
                    let acc = [[s.splat(0.0); 2]; ROWS];
                    let acc = strip::<S, ROWS>(s, Matrix::rows(&rows[t * width..], width), width, b, S::LANES, acc);
                    for of in acc {
                        best = [s.max(best[0], of[0]), s.max(best[1], of[1])];
                    }
                    t += ROWS;
                }
                while t < n {
                    let acc = [[s.splat(0.0); 2]];
                    let [of] = strip::<S, 1>(s, Matrix::rows(&rows[t * width..], width), width, b, S::LANES, acc);
                    best = [s.max(best[0], of[0]), s.max(best[1], of[1])];
                    t += 1;
                }
                for (half, best) in best.into_iter().enumerate() {
                    let there = queries.saturating_sub((2 * i + half) * S::LANES).min(S::LANES);
                    let bits = if there >= 32 { u32::MAX } else { (1u32 << there) - 1 };
                    sum += s.sum(s.select_bits(bits, best, s.splat(0.0)));
                }
            }
            *score = sum;
        }
    }
}
