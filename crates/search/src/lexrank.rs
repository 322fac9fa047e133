//! LexRank: the sentences of a text by how central they are, and a selection of them that repeats little.
//!
//! $$ p = \frac{d}{N} + (1 - d)\, B^\top p, \quad B_{ij} = \frac{\max(0, \cos(x_i, x_j))}{\sum_k \max(0, \cos(x_i, x_k))} $$
//!
//! A sentence is central if central sentences are similar to it: the stationary distribution of a random walk over the graph of sentences. Erkan and Radev 2004,
//! §3.3 (continuous LexRank, with `d = 0.15`), here over vectors of an encoder instead of tf-idf. The selection is maximal marginal relevance, Carbonell and
//! Goldstein 1998.

use longreach_simd::Cx;
use longreach_simd::norm::Rows;
use longreach_simd::product::{Weights, linear};

/// The probability of a jump to any sentence.
const JUMP: f64 = 0.15;
/// The walk ends when no probability changes by more than this share of the mean.
const SETTLED: f64 = 1e-6;
const MOST_STEPS: usize = 200;

/// The LexRank of sentences with vectors of unit length, `vectors: [N, width]`; they sum to 1. O(N² width) time and O(N²) memory.
///
/// Panics if the number of vectors is not a multiple of `width`.
pub fn rank(cx: &Cx, vectors: &[f32], width: usize) -> Vec<f64> {
    assert!(width > 0 && vectors.len().is_multiple_of(width), "rows of {width}");
    let n = vectors.len() / width;
    let mut walk = vec![0.0f32; n * n];
    linear(cx, Rows::contiguous(vectors, width), Weights::F32(vectors), None, &mut walk);
    cx.team.for_each(walk.chunks_mut(n.max(1)), |row| {
        row.iter_mut().for_each(|x| *x = x.max(0.0));
        let sum: f64 = row.iter().map(|x| f64::from(*x)).sum();
        match sum > 0.0 {
            true => row.iter_mut().for_each(|x| *x = (f64::from(*x) / sum) as f32),
            // A sentence like no other, not even itself, jumps.
            false => row.fill(1.0 / n as f32),
        }
    });
    let mut p = vec![1.0 / n as f64; n];
    for _ in 0..MOST_STEPS {
        let mut next = vec![JUMP / n as f64; n];
        for (row, p) in walk.chunks(n.max(1)).zip(&p) {
            next.iter_mut().zip(row).for_each(|(to, step)| *to += (1.0 - JUMP) * p * f64::from(*step));
        }
        let change = p.iter().zip(&next).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
        p = next;
        if change * n as f64 <= SETTLED {
            break;
        }
    }
    p
}

/// Chooses sentences one by one, while `wanted` says yes to the next: that of the largest $\lambda\, p_i / \max p - (1 - \lambda) \max_j \cos(x_i, x_j)$ over
/// the chosen `j`. A sentence to which `wanted` says no is left out. Returns their numbers in the order of the choice.
pub fn choose(
    scores: &[f64],
    vectors: &[f32],
    width: usize,
    lambda: f64,
    mut wanted: impl FnMut(usize) -> bool,
) -> Vec<usize> {
    let most = scores.iter().fold(f64::MIN_POSITIVE, |most, score| most.max(*score));
    let mut nearest = vec![0.0f64; scores.len()];
    let mut left: Vec<usize> = (0..scores.len()).collect();
    let mut chosen = Vec::new();
    let row = |i: usize| &vectors[i * width..(i + 1) * width];
    while !left.is_empty() {
        let value = |i: usize| lambda * scores[i] / most - (1.0 - lambda) * nearest[i];
        let best =
            (0..left.len()).max_by(|a, b| value(left[*a]).total_cmp(&value(left[*b])).then(left[*b].cmp(&left[*a])));
        let Some(best) = best else { break };
        let best = left.remove(best);
        if !wanted(best) {
            continue;
        }
        chosen.push(best);
        for i in &left {
            let cosine: f64 = row(*i).iter().zip(row(best)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            nearest[*i] = nearest[*i].max(cosine);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of unit length at these angles.
    fn at(angles: &[f32]) -> Vec<f32> {
        angles.iter().flat_map(|a| [a.cos(), a.sin()]).collect()
    }

    #[test]
    fn ranks_are_the_fixed_point_of_the_equation() {
        let cx = &*longreach_burn::context();
        let vectors = at(&[0.0, 0.1, 0.2, 1.0, 3.0]);
        let p = rank(cx, &vectors, 2);
        let cosine = |i: usize, j: usize| {
            f64::from(vectors[2 * i] * vectors[2 * j] + vectors[2 * i + 1] * vectors[2 * j + 1]).max(0.0)
        };
        for j in 0..5 {
            let inflow: f64 = (0..5).map(|i| p[i] * cosine(i, j) / (0..5).map(|k| cosine(i, k)).sum::<f64>()).sum();
            assert!((p[j] - (0.03 + 0.85 * inflow)).abs() < 1e-6, "{j}: {p:?}");
        }
        assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-6);
        // The one with similar ones on both sides is the most central, and the one with the fewest the least.
        assert!(p[2] > p[1] && p[1] > p[0] && p[0] > p[3], "{p:?}");
        assert_eq!(rank(cx, &[], 3), [0.0; 0]);
        assert_eq!(rank(cx, &[0.0, 0.0], 1), [0.5, 0.5]);
    }

    #[test]
    fn a_choice_repeats_nothing_while_something_else_is_left() {
        let vectors = at(&[0.0, 0.01, 1.5]);
        let scores = [0.4, 0.39, 0.2];
        assert_eq!(choose(&scores, &vectors, 2, 0.5, |_| true), [0, 2, 1]);
        assert_eq!(choose(&scores, &vectors, 2, 1.0, |_| true), [0, 1, 2]);
        assert_eq!(choose(&scores, &vectors, 2, 0.5, |i| i != 2), [0, 1]);
        assert_eq!(choose(&[], &[], 2, 0.5, |_| true), [0; 0]);
    }
}
