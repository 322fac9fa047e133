//! The definition.

use ndarray::{Array3, Array4, ArrayView2, ArrayView4, s};

use super::Lsh;

/// Attention of all tokens in f64, `[B, T, H, E]`, and its log-sum-exp, `[B, T, H]`.
pub fn naive(
    x: ArrayView4<'_, f64>,
    v: ArrayView4<'_, f64>,
    buckets: ArrayView4<'_, usize>,
    keep: Option<ArrayView2<'_, bool>>,
    lsh: &Lsh,
) -> (Array4<f64>, Array3<f64>) {
    let (b, t, h, d) = x.dim();
    let rounds = buckets.dim().2;
    let mut out = Array4::zeros(v.dim());
    let mut lse = Array3::from_elem((b, t, h), f64::NEG_INFINITY);
    if t == 0 {
        return (out, lse);
    }
    for b in 0..b {
        for h in 0..h {
            let mut order: Vec<(usize, usize, usize)> = (0..rounds)
                .flat_map(|n| (0..t).map(move |i| (n, i)))
                .map(|(n, i)| (buckets[[b, h, n, i]], i, n))
                .collect();
            let chunk = if t <= lsh.chunk { t } else { lsh.chunk };
            if t > lsh.chunk {
                order.sort();
            }
            let chunks = order.len() / chunk;
            // The scores of every token over all rounds.
            let mut scores = vec![Vec::new(); t];
            for (place, (_, i, _)) in order.iter().enumerate() {
                let own = place / chunk;
                let mut seen: Vec<usize> = if t <= lsh.chunk {
                    vec![own]
                } else {
                    (0..(lsh.before + lsh.after + 1).min(chunks))
                        .map(|n| (own + chunks * lsh.before + n - lsh.before) % chunks)
                        .collect()
                };
                seen.sort();
                seen.dedup();
                for (_, j, _) in seen.into_iter().flat_map(|c| &order[c * chunk..(c + 1) * chunk]) {
                    if lsh.causal && j > i || keep.is_some_and(|keep| !keep[[b, *j]]) {
                        continue;
                    }
                    let key = x.slice(s![b, *j, h, ..]);
                    let norm = (key.dot(&key) / d as f64 + 1e-6).sqrt() * (d as f64).sqrt();
                    let itself = if i == j { 1e5 } else { 0.0 };
                    scores[*i].push((*j, x.slice(s![b, *i, h, ..]).dot(&key) / norm - itself));
                }
            }
            for (i, scores) in scores.iter_mut().enumerate() {
                // It attends to itself only if it attends to nothing else.
                if scores.iter().any(|(j, _)| *j != i) {
                    scores.retain(|(j, _)| *j != i);
                }
                let top = scores.iter().fold(f64::NEG_INFINITY, |top, (_, y)| top.max(*y));
                let sum: f64 = scores.iter().map(|(_, y)| (y - top).exp()).sum();
                if !scores.is_empty() {
                    lse[[b, i, h]] = top + sum.ln();
                }
                for (j, y) in &*scores {
                    out.slice_mut(s![b, i, h, ..]).scaled_add((y - top).exp() / sum, &v.slice(s![b, *j, h, ..]));
                }
            }
        }
    }
    (out, lse)
}
