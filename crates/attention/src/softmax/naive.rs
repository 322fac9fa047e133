//! The definition.

use ndarray::{Array3, Array4, s};

use super::limits::Limits;
use super::{Inputs, Pattern, packed_sequences};
use crate::{Error, Sequences};

/// Attention in f64, `[B, T, H, E]`, and its log-sum-exp, `[B, T, H]`.
pub fn naive(x: &Inputs<'_, f64, f64>, pattern: &(impl Pattern + ?Sized)) -> Result<(Array4<f64>, Array3<f64>), Error> {
    if packed_sequences::needed(x, pattern)? {
        return packed_sequences::naive(pattern.name(), x, |x| naive(x, pattern));
    }
    let (of, groups) = x.sizes(pattern.name())?;
    pattern.check(&of)?;
    Limits::of(pattern.name(), &of, None, x.sequences)?;
    let (batch, t, heads, _) = x.q.dim();
    let (_, keys, _, e) = x.v.dim();
    let sequence = |i: usize| match x.sequences {
        Sequences::Batch => 0,
        Sequences::Packed(bounds) => bounds.iter().filter(|bound| **bound <= i).count(),
    };
    let mut out = Array4::zeros((batch, t, heads, e));
    let mut lse = Array3::from_elem((batch, t, heads), f64::NEG_INFINITY);
    for b in 0..batch {
        for h in 0..heads {
            let g = h * groups / heads;
            for (t, i) in of.queries.clone().enumerate() {
                let mut seen = Vec::new();
                for j in 0..keys {
                    let count = pattern.count(&of, b, h, i, j);
                    if count == 0 || sequence(i) != sequence(j) || x.keep.is_some_and(|keep| !keep[[b, j]]) {
                        continue;
                    }
                    let mut y = x.scale * x.q.slice(s![b, t, h, ..]).dot(&x.k.slice(s![b, j, g, ..]));
                    if let Some(cap) = x.softcap {
                        y = cap * (y / cap).tanh();
                    }
                    if let Some(bias) = &x.bias {
                        y += bias[[b % bias.dim().0, h % bias.dim().1, t, j]];
                    }
                    if let Some(slopes) = &x.alibi {
                        y -= slopes[h] * i.abs_diff(j) as f64;
                    }
                    if let Some(weights) = &x.weights {
                        y += weights[[b, j]];
                    }
                    seen.push((j, y + (count as f64).ln()));
                }
                let scores = seen.iter().map(|(_, y)| *y).chain(x.sinks.map(|sinks| sinks[h]));
                let top = scores.clone().fold(f64::NEG_INFINITY, f64::max);
                if top == f64::NEG_INFINITY {
                    continue;
                }
                lse[[b, t, h]] = top + scores.map(|y| (y - top).exp()).sum::<f64>().ln();
                for (j, y) in seen {
                    let p = (y - lse[[b, t, h]]).exp();
                    out.slice_mut(s![b, t, h, ..]).scaled_add(p, &x.v.slice(s![b, j, g, ..]));
                }
            }
        }
    }
    Ok((out, lse))
}
