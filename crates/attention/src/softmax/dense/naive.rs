//! The definition.

use ndarray::{Array3, Array4, s};

use super::Inputs;

/// Attention of all queries in f64, and the logarithm of the sum of the exponentials, `[B, T, H]`.
pub fn naive(x: &Inputs<'_, f64, f64>) -> (Array4<f64>, Array3<f64>) {
    let (batch, t, heads, _) = x.q.dim();
    let (_, keys, groups, e) = x.v.dim();
    let mut out = Array4::zeros((batch, t, heads, e));
    let mut lse = Array3::from_elem((batch, t, heads), f64::NEG_INFINITY);
    for b in 0..batch {
        for h in 0..heads {
            let g = h * groups / heads;
            for i in 0..t {
                let seen = x.causal.map_or(keys, |offset| (offset + i + 1).min(keys));
                let mut scores = Vec::with_capacity(seen + 1);
                for j in 0..seen {
                    let mut y = x.scale * x.q.slice(s![b, i, h, ..]).dot(&x.k.slice(s![b, j, g, ..]));
                    if let Some(cap) = x.softcap {
                        y = cap * (y / cap).tanh();
                    }
                    if let Some(bias) = &x.bias {
                        y += bias[[b % bias.dim().0, h % bias.dim().1, i, j]];
                    }
                    scores.push(y);
                }
                scores.extend(x.sinks.map(|sinks| sinks[h]));
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                if scores.is_empty() {
                    continue;
                }
                let sum: f64 = scores.iter().map(|y| (y - top).exp()).sum();
                lse[[b, i, h]] = top + sum.ln();
                for (j, y) in scores[..seen].iter().enumerate() {
                    let p = (y - lse[[b, i, h]]).exp();
                    out.slice_mut(s![b, i, h, ..]).scaled_add(p, &x.v.slice(s![b, j, g, ..]));
                }
            }
        }
    }
    (out, lse)
}
