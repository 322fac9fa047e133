//! The definition.

use ndarray::{ArrayView4, s};

use super::Moba;

/// The blocks that each query of each head and sequence attends to, ascending, in f64: one list per `[B, H, T]`, in
/// that order. Ties are broken in favour of the earlier block. Query `t` is at position `offset + t`.
pub fn naive(q: ArrayView4<'_, f64>, k: ArrayView4<'_, f64>, offset: usize, moba: &Moba) -> Vec<Vec<u32>> {
    let (b, t, h, _) = q.dim();
    let mut lists = Vec::new();
    for b in 0..b {
        for head in 0..h {
            for t in 0..t {
                let own = (offset + t) / moba.block;
                let score = |m: usize| {
                    let block = k.slice(s![b, m * moba.block..(m + 1) * moba.block, head * k.dim().2 / h, ..]);
                    block.rows().into_iter().map(|k| k.dot(&q.slice(s![b, t, head, ..]))).sum::<f64>() + 0.0
                };
                let mut past: Vec<(f64, usize)> = (0..own).map(|m| (score(m), m)).collect();
                past.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                let mut list: Vec<u32> = past.iter().take(moba.top - 1).map(|(_, m)| *m as u32).collect();
                list.push(own as u32);
                list.sort_unstable();
                lists.push(list);
            }
        }
    }
    lists
}
