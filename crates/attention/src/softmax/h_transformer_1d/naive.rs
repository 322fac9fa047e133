//! The definition.

use ndarray::{Array3, Array4, ArrayView4, s};

use super::HTransformer1d;
use crate::Error;
use crate::softmax::Inputs;

impl HTransformer1d {
    /// The level at which two tokens interact: the lowest at which their blocks are equal or adjacent.
    fn level(&self, i: usize, j: usize) -> u32 {
        let apart = |level: &u32| ((i >> level) / self.block).abs_diff((j >> level) / self.block);
        (0..).find(|level| apart(level) <= 1).unwrap_or_default()
    }
}

/// The cells of every level up to `top`: the means of halves that have tokens, or the first half if `first`.
fn cells(x: ArrayView4<'_, f64>, there: impl Fn(usize, usize) -> bool, top: u32, first: bool) -> Vec<Array4<f64>> {
    let (batch, tokens, h, d) = x.dim();
    let holds = |b: usize, level: u32, n: usize| (n << level..((n + 1) << level).min(tokens)).any(|t| there(b, t));
    let mut levels = vec![x.to_owned()];
    for level in 1..=top {
        let below = &levels[level as usize - 1];
        let mut cells = Array4::zeros((batch, tokens.div_ceil(1 << level), h, d));
        for (b, n) in ndarray::indices((batch, cells.dim().1)) {
            let mut cell = cells.slice_mut(s![b..=b, n..=n, .., ..]);
            let halves = [2 * n, 2 * n + 1].into_iter().filter(|half| *half < below.dim().1);
            let halves: Vec<usize> = if first {
                halves.take(1).collect()
            } else {
                halves.filter(|half| holds(b, level - 1, *half)).collect()
            };
            for half in &halves {
                cell.scaled_add(1.0 / halves.len() as f64, &below.slice(s![b..=b, *half..=*half, .., ..]));
            }
        }
        levels.push(cells);
    }
    levels
}

/// Attention in f64, `[B, T, H, E]`, and its log-sum-exp, `[B, T, H]`.
pub fn naive(x: &Inputs<'_, f64, f64>, of: &HTransformer1d) -> Result<(Array4<f64>, Array3<f64>), Error> {
    of.check(x)?;
    let ((batch, t, heads, _), (_, _, groups, e)) = (x.q.dim(), x.v.dim());
    let there = |b: usize, t: usize| x.keep.is_none_or(|keep| keep[[b, t]]);
    let top = of.level(0, t.saturating_sub(1));
    let (q, k) = (cells(x.q, there, top, of.causal), cells(x.k, there, top, false));
    let mut out = Array4::zeros((batch, t, heads, e));
    let mut lse = Array3::from_elem((batch, t, heads), f64::NEG_INFINITY);
    for ((b, i, h), lse) in lse.indexed_iter_mut() {
        let g = h * groups / heads;
        let mut seen = Vec::new();
        for j in (0..t).filter(|j| there(b, *j) && !(of.causal && *j > i)) {
            let level = of.level(i, j);
            let [query, key] = [i >> level, j >> level];
            let (query, key) =
                (q[level as usize].slice(s![b, query, h, ..]), k[level as usize].slice(s![b, key, g, ..]));
            let score = x.scale * query.dot(&key);
            seen.push((j, x.softcap.map_or(score, |cap| cap * (score / cap).tanh())));
        }
        let most = seen.iter().fold(f64::NEG_INFINITY, |most, (_, y)| most.max(*y));
        if most > f64::NEG_INFINITY {
            *lse = most + seen.iter().map(|(_, y)| (y - most).exp()).sum::<f64>().ln();
            for (j, y) in seen {
                out.slice_mut(s![b, i, h, ..]).scaled_add((y - *lse).exp(), &x.v.slice(s![b, j, g, ..]));
            }
        }
    }
    Ok((out, lse))
}
