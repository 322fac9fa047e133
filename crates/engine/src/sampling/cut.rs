//! Which tokens are kept: the nucleus, and the typical ones.

use std::cmp::Ordering;

/// A token and its logit.
pub(super) type Token = (u32, f32);

/// Most probable first; ties go to the lower id.
pub(super) fn likeliest(a: &Token, b: &Token) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Keeps the most probable tokens, in order, until their probabilities sum to `p`. The nucleus is mostly small: only as
/// much is sorted as it needs.
pub(super) fn nucleus(order: &mut Vec<Token>, probability: impl Fn(&Token) -> f64, p: f64) {
    let (mut sorted, mut end, mut reached) = (0, 256, 0.0);
    while sorted < order.len() {
        end = end.min(order.len());
        let rest = &mut order[sorted..];
        if end - sorted < rest.len() {
            rest.select_nth_unstable_by(end - sorted - 1, likeliest);
        }
        rest[..end - sorted].sort_unstable_by(likeliest);
        for i in sorted..end {
            if reached >= p {
                order.truncate(i);
                return;
            }
            reached += probability(&order[i]);
        }
        (sorted, end) = (end, 4 * end);
    }
}

/// Keeps the tokens whose information `−ln p` is closest to the entropy, until their probabilities sum to `mass`, and those
/// that are as close as the last of them. `weight` is proportional to the probability. The order of the tokens stays.
pub(super) fn typical(order: &mut Vec<Token>, weight: impl Fn(&Token) -> f64, mass: f64) {
    let total: f64 = order.iter().map(&weight).sum();
    let probabilities: Vec<f64> = order.iter().map(|token| weight(token) / total).collect();
    let information = |p: f64| if p > 0.0 { -p.ln() } else { f64::INFINITY };
    let entropy: f64 = probabilities.iter().filter(|p| **p > 0.0).map(|p| p * information(*p)).sum();
    let distances: Vec<f64> = probabilities.iter().map(|p| (information(*p) - entropy).abs()).collect();
    let mut closest: Vec<usize> = (0..order.len()).collect();
    closest.sort_by(|a, b| distances[*a].total_cmp(&distances[*b]));
    let mut reached = 0.0;
    let last = closest.iter().find(|i| {
        reached += probabilities[**i];
        reached >= mass
    });
    let Some(bound) = last.or(closest.last()).map(|i| distances[*i]) else { return };
    let mut kept = distances.iter().map(|distance| *distance <= bound);
    order.retain(|_| kept.next().unwrap_or(false));
}
