//! The definition.

use ndarray::{Array3, Array4, s};

use super::LongNet;
use crate::Error;
use crate::softmax::Inputs;

/// From where on head `h` of `heads` keeps tokens: as many heads in a row share an offset as make `r` different ones.
pub(super) fn offset(h: usize, heads: usize, r: usize) -> usize {
    h / heads.div_ceil(r)
}

/// Attention in f64, and its log-sum-exp, `[B, T, H]`.
pub fn naive(x: &Inputs<'_, f64, f64>, longnet: &LongNet) -> Result<(Array4<f64>, Array3<f64>), Error> {
    let of = longnet.check(x)?;
    let (b, t, heads, _) = x.q.dim();
    let mut out = Array4::zeros((b, t, heads, x.v.dim().3));
    let mut lse = Array3::from_elem((b, t, heads), f64::NEG_INFINITY);
    for ((b, i, h), lse) in lse.indexed_iter_mut() {
        let g = h * x.k.dim().2 / heads;
        let mut seen: Vec<(usize, f64)> = Vec::new();
        for (w, r) in longnet.branches() {
            let w = w.min(t);
            let kept = |t: usize| t % w % r == offset(h, of.heads, r);
            if !kept(i) {
                continue;
            }
            for j in (i / w * w..((i / w + 1) * w).min(t)).filter(|j| kept(*j) && (!longnet.causal || *j <= i)) {
                if x.keep.is_none_or(|keep| keep[[b, j]]) {
                    let mut y = x.scale * x.q.slice(s![b, i, h, ..]).dot(&x.k.slice(s![b, j, g, ..]));
                    if let Some(cap) = x.softcap {
                        y = cap * (y / cap).tanh();
                    }
                    seen.push((j, y));
                }
            }
        }
        let top = seen.iter().fold(f64::NEG_INFINITY, |top, (_, y)| top.max(*y));
        if top > f64::NEG_INFINITY {
            *lse = top + seen.iter().map(|(_, y)| (y - top).exp()).sum::<f64>().ln();
            for (j, y) in seen {
                out.slice_mut(s![b, i, h, ..]).scaled_add((y - *lse).exp(), &x.v.slice(s![b, j, g, ..]));
            }
        }
    }
    Ok((out, lse))
}
