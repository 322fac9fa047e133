//! The definition.

use ndarray::{ArrayView4, s};

use super::InfLlmV2;

/// The blocks that the queries of each group and sequence attend to, ascending, in f64: one list per `[B, G, T]`, in
/// that order. Query `t` is at position `offset + t`; scores are scaled by `scale`.
pub fn naive(
    q: ArrayView4<'_, f64>,
    k: ArrayView4<'_, f64>,
    scale: f64,
    offset: usize,
    of: &InfLlmV2,
) -> Vec<Vec<u32>> {
    let ((b, t, h, _), (_, keys, groups, _)) = (q.dim(), k.dim());
    let n = (keys + of.stride).saturating_sub(of.kernel) / of.stride;
    let mut lists = Vec::new();
    for b in 0..b {
        for g in 0..groups {
            for t in 0..t {
                let (i, own) = (offset + t, (offset + t) / of.block);
                let mut sum = vec![0.0; n];
                for head in g * h / groups..(g + 1) * h / groups {
                    let ends_before = |c: &usize| c * of.stride + of.kernel <= i + 1;
                    let score = |c: usize| {
                        let stretch = k.slice(s![b, c * of.stride..c * of.stride + of.kernel, g, ..]);
                        let q = q.slice(s![b, t, head, ..]);
                        scale * stretch.rows().into_iter().map(|k| k.dot(&q)).sum::<f64>() / of.kernel as f64
                    };
                    let scores: Vec<f64> = (0..n).filter(ends_before).map(score).collect();
                    let top = scores.iter().fold(f64::NEG_INFINITY, |top, y| top.max(*y));
                    let exp: Vec<f64> = scores.iter().map(|y| (y - top).exp()).collect();
                    let total: f64 = exp.iter().sum();
                    sum.iter_mut().zip(&exp).for_each(|(sum, e)| *sum += e / total);
                }
                let score = |block: usize| {
                    let forced = block < of.init_blocks || block.saturating_add(of.window / of.block) >= own;
                    let most = sum[of.pooled(block, n)].iter().fold(0.0f64, |a, b| a.max(*b));
                    if forced { f64::INFINITY } else { most }
                };
                let mut blocks: Vec<(f64, u32)> = (0..=own).map(|block| (score(block), block as u32)).collect();
                blocks.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                let dense = i + 1 < of.dense_below;
                let most = if dense { blocks.len() } else { of.top.saturating_add(of.window / of.block) };
                let mut list: Vec<u32> = blocks.into_iter().take(most).map(|(_, block)| block).collect();
                list.sort_unstable();
                lists.push(list);
            }
        }
    }
    lists
}
