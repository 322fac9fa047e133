//! The definition.

use ndarray::{Array4, ArrayView4, Axis, s};

use super::Nsa;
use crate::softmax::Inputs;

/// Attention in f64, `[B, T, H, E]`.
pub fn naive(x: &Inputs<'_, f64, f64>, gates: ArrayView4<'_, f64>, nsa: &Nsa) -> Array4<f64> {
    let (batch, t, heads, _) = x.q.dim();
    let (_, keys, groups, e) = x.v.dim();
    let per_group = heads / groups;
    let mut out = Array4::zeros((batch, t, heads, e));
    let mean = |x: &ArrayView4<'_, f64>, b: usize, g: usize, n: usize| {
        x.slice(s![b, n * nsa.block..(n + 1) * nsa.block, g, ..]).mean_axis(Axis(0)).unwrap_or_default()
    };
    for ((b, t, g), _) in
        Array4::<u8>::zeros((batch, t, groups, 1)).indexed_iter().map(|((b, t, g, _), x)| ((b, t, g), x))
    {
        let i = x.offset + t;
        let (own, ended) = (i / nsa.block, ((i + 1) / nsa.block).min(keys / nsa.block));
        let capped = |y: f64| x.softcap.map_or(y, |cap| cap * (y / cap).tanh());
        let weights = |scores: Vec<f64>| {
            let top = scores.iter().fold(f64::NEG_INFINITY, |top, y| top.max(*y));
            let exp: Vec<f64> = scores.iter().map(|y| (y - top).exp()).collect();
            let total: f64 = exp.iter().sum();
            exp.into_iter().map(move |e| e / total).collect::<Vec<_>>()
        };
        let of_head = |h: usize, k: &ndarray::Array1<f64>| capped(x.scale * x.q.slice(s![b, t, h, ..]).dot(k));
        let mut importance = vec![0.0; own + 1];
        for h in g * per_group..(g + 1) * per_group {
            let p = weights((0..ended).map(|n| of_head(h, &mean(&x.k, b, g, n))).collect());
            for (n, p) in p.iter().enumerate() {
                importance[n] += p;
                out.slice_mut(s![b, t, h, ..]).scaled_add(gates[[b, t, h, 0]] * p, &mean(&x.v, b, g, n));
            }
        }
        let mut order: Vec<usize> = (0..=own).collect();
        // Forced blocks precede others regardless of weight.
        let rank = |n: usize| match n {
            _ if n == own => 4.0,
            0 => 3.0,
            _ if n + 1 == own => 2.0,
            _ => importance[n] / per_group as f64,
        };
        order.sort_by(|a, b| rank(*b).total_cmp(&rank(*a)).then(a.cmp(b)));
        order.truncate(nsa.top);
        for h in g * per_group..(g + 1) * per_group {
            let chosen: Vec<usize> = (0..=i.min(keys - 1)).filter(|j| order.contains(&(j / nsa.block))).collect();
            let near: Vec<usize> = (0..=i.min(keys - 1)).filter(|j| i - j < nsa.window).collect();
            for (n, seen) in [(1, chosen), (2, near)] {
                let p = weights(seen.iter().map(|j| of_head(h, &x.k.slice(s![b, *j, g, ..]).to_owned())).collect());
                for (j, p) in seen.iter().zip(p) {
                    out.slice_mut(s![b, t, h, ..]).scaled_add(gates[[b, t, h, n]] * p, &x.v.slice(s![b, *j, g, ..]));
                }
            }
        }
    }
    out
}
