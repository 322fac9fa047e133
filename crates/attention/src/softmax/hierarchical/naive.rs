//! The definition.

use ndarray::{Array1, Array3, Array4, s};

use super::{Hierarchical, OP};
use crate::Error;
use crate::softmax::{Inputs, packed_sequences};

/// Attention in f64, `[B, T, H, E]`, and its log-sum-exp, `[B, T, H]`.
pub fn naive(x: &Inputs<'_, f64, f64>, of: &Hierarchical) -> Result<(Array4<f64>, Array3<f64>), Error> {
    packed_sequences::naive(OP, x, |x| together(x, of))
}

fn together(x: &Inputs<'_, f64, f64>, of: &Hierarchical) -> Result<(Array4<f64>, Array3<f64>), Error> {
    let (_, of) = of.check(x)?;
    let (batch, t, heads, _) = x.q.dim();
    let (_, keys, groups, e) = x.v.dim();
    let mut out = Array4::zeros((batch, t, heads, e));
    let mut lse = Array3::from_elem((batch, t, heads), f64::NEG_INFINITY);
    for ((b, t, h), mut out) in ndarray::indices((batch, t, heads)).into_iter().zip(out.rows_mut()) {
        let (i, g) = (x.offset + t, h * groups / heads);
        // Ranges of tokens: those of the query's own block, then the means of the sibling subtree at every level.
        let own = i / of.block * of.block;
        let mut stretches: Vec<(usize, usize)> =
            (own..own + of.block).filter(|j| !of.causal || *j <= i).map(|j| (j, j + 1)).collect();
        let (mut size, mut mean) = (of.block, 1);
        while size < keys {
            let beside = (i / size) ^ 1;
            if !of.causal || beside < i / size {
                stretches.extend((0..of.block).map(|n| beside * size + n * mean).map(|from| (from, from + mean)));
            }
            (size, mean) = (2 * size, 2 * mean);
        }
        let (mut scores, mut values) = (Vec::new(), Vec::new());
        for (from, to) in stretches {
            let there: Vec<usize> =
                (from.min(keys)..to.min(keys)).filter(|j| x.keep.is_none_or(|keep| keep[[b, *j]])).collect();
            if there.is_empty() {
                continue;
            }
            let mut k = Array1::<f64>::zeros(x.k.dim().3);
            let mut v = Array1::<f64>::zeros(e);
            for j in &there {
                k.scaled_add(1.0 / there.len() as f64, &x.k.slice(s![b, *j, g, ..]));
                v.scaled_add(1.0 / there.len() as f64, &x.v.slice(s![b, *j, g, ..]));
            }
            let mut y = x.scale * k.dot(&x.q.slice(s![b, t, h, ..]));
            if let Some(cap) = x.softcap {
                y = cap * (y / cap).tanh();
            }
            scores.push(y + (there.len() as f64).ln());
            values.push(v);
        }
        let sink = x.sinks.map(|sinks| sinks[h]);
        let top = scores.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().copied().chain(sink).map(|y| (y - top).exp()).sum();
        if top > f64::NEG_INFINITY {
            lse[[b, t, h]] = top + total.ln();
        }
        for (y, v) in scores.iter().zip(&values) {
            out.scaled_add((y - top).exp() / total, v);
        }
    }
    Ok((out, lse))
}
