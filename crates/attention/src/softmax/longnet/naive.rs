//! The definition.

use ndarray::{Array3, Array4, s};

use super::{LongNet, OP};
use crate::Error;
use crate::softmax::{Inputs, packed_sequences};

/// The first token that head `h` of `heads` keeps: consecutive heads share an offset such that there are `r` different
/// ones.
pub(super) fn offset(h: usize, heads: usize, r: usize) -> usize {
    h / heads.div_ceil(r)
}

impl LongNet {
    /// The number of branches in which query `i` of head `h` of `heads` attends to key `j`, in a sequence of `tokens`.
    pub(super) fn meets(&self, tokens: usize, (h, heads): (usize, usize), i: usize, j: usize) -> u32 {
        let meet = |(w, r): (usize, usize)| {
            let w = w.min(tokens).max(1);
            let kept = |t: usize| t % w % r == offset(h, heads, r);
            i / w == j / w && kept(i) && kept(j) && (!self.causal || j <= i)
        };
        self.branches().filter(|branch| meet(*branch)).count() as u32
    }
}

/// Attention in f64, and its log-sum-exp, `[B, T, H]`.
pub fn naive(x: &Inputs<'_, f64, f64>, longnet: &LongNet) -> Result<(Array4<f64>, Array3<f64>), Error> {
    packed_sequences::naive(OP, x, |x| together(x, longnet))
}

fn together(x: &Inputs<'_, f64, f64>, longnet: &LongNet) -> Result<(Array4<f64>, Array3<f64>), Error> {
    let of = longnet.check(x)?;
    let (b, t, heads, _) = x.q.dim();
    let mut out = Array4::zeros((b, t, heads, x.v.dim().3));
    let mut lse = Array3::from_elem((b, t, heads), f64::NEG_INFINITY);
    for ((b, i, h), lse) in lse.indexed_iter_mut() {
        let g = h * x.k.dim().2 / heads;
        let mut seen: Vec<(usize, f64)> = Vec::new();
        for j in 0..t {
            let count = longnet.meets(t, (h, of.heads), i, j);
            if count > 0 && x.keep.is_none_or(|keep| keep[[b, j]]) {
                let mut y = x.scale * x.q.slice(s![b, i, h, ..]).dot(&x.k.slice(s![b, j, g, ..]));
                if let Some(cap) = x.softcap {
                    y = cap * (y / cap).tanh();
                }
                seen.push((j, y + f64::from(count).ln()));
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
