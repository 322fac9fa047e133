//! What formats of 256 share: scales and minima of sub-blocks that are themselves integers.

use super::fit::{Tries, codes, largest, positive, symmetric, weights, with_minimum};
use super::{Weighting, as_half, inverse};
use crate::Isa;

/// A block with minima: the stored scales and minima of its sub-blocks, their factors and the codes.
pub(in super::super) struct WithMinima<const K: usize> {
    pub(in super::super) factors: [f32; 2],
    pub(in super::super) scales: [u8; K],
    pub(in super::super) minima: [u8; K],
    pub(in super::super) codes: [u8; 256],
}

/// Rounds a block of eight sub-blocks of 32: the scales and minima to 6 bits, the codes to those up to `most`.
#[inline(always)]
pub(in super::super) fn with_minima(x: &[f32], weighting: Weighting<'_>, most: f32, from: f32) -> WithMinima<8> {
    let mean = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
    let squares = 2.0 * mean(x);
    let (mut fitted, mut minima, mut counts) = ([0.0; 8], [0.0; 8], [0.0; 8]);
    for (k, x) in x.as_chunks::<32>().0.iter().enumerate() {
        let size = mean(x).sqrt();
        let importance = weighting.importance.map(|w| &w[32 * k..][..32]);
        let w = weights(x, importance, squares, |x| size + x.abs());
        let tries = match importance {
            Some(_) => Tries { from: -0.9, step: 0.05, count: 37, absolute: false },
            None => Tries { from, step: 0.1, count: ((1.0 - from) * 10.0) as usize + 1, absolute: false },
        };
        (fitted[k], minima[k]) = with_minimum(weighting.isa, x, &w, most, tries);
        counts[k] = w.iter().sum();
    }
    let factor = |x: &[f32; 8]| match weighting.importance {
        Some(_) => positive(x, &counts, 63.0),
        None => x.iter().fold(0.0f32, |a, b| a.max(*b)) / 63.0,
    };
    finished(x, [factor(&fitted), factor(&minima)], &fitted, &minima, 63.0, most)
}

/// Rounds the scales and minima of a block, and the codes by what is stored of them.
#[inline(always)]
pub(in super::super) fn finished<const K: usize>(
    x: &[f32],
    factors: [f32; 2],
    scales: &[f32; K],
    minima: &[f32; K],
    most_scale: f32,
    most: f32,
) -> WithMinima<K> {
    let mut block = WithMinima { factors, scales: [0; K], minima: [0; K], codes: [0; 256] };
    codes(scales, inverse(factors[0]), 0.0, most_scale, &mut block.scales);
    codes(minima, inverse(factors[1]), 0.0, most_scale, &mut block.minima);
    let [d, m] = factors.map(as_half);
    for (k, (x, to)) in x.chunks_exact(256 / K).zip(block.codes.chunks_exact_mut(256 / K)).enumerate() {
        let by = inverse(d * f32::from(block.scales[k]));
        codes(x, by, m * f32::from(block.minima[k]) * by, most, to);
    }
    block
}

/// A block without minima, of sixteen sub-blocks.
pub(in super::super) struct Signed {
    pub(in super::super) factor: f32,
    /// From `-limit` to `limit - 1`.
    pub(in super::super) scales: [i8; 16],
    /// Raised by `most`.
    pub(in super::super) codes: [u8; 256],
}

/// Rounds a block of sixteen sub-blocks of 16, the codes to those from `-most` to `most - 1`.
#[inline(always)]
pub(in super::super) fn signed(
    isa: Isa,
    x: &[f32],
    most: f32,
    limit: f32,
    weight: impl Fn(&[f32; 16], usize) -> [f32; 16],
) -> Signed {
    let mut fitted = [0.0; 16];
    for (k, x) in x.as_chunks::<16>().0.iter().enumerate() {
        fitted[k] = symmetric(isa, x, &weight(x, 16 * k), most);
    }
    let factor = largest(&fitted) / -limit;
    let mut block = Signed { factor, scales: [0; 16], codes: [0; 256] };
    let d = as_half(factor);
    let by = inverse(factor);
    for (k, (x, to)) in x.chunks_exact(16).zip(block.codes.chunks_exact_mut(16)).enumerate() {
        let scale = (fitted[k] * by).round_ties_even().clamp(-limit, limit - 1.0);
        block.scales[k] = scale as i8;
        codes(x, inverse(d * scale), most, 2.0 * most - 1.0, to);
    }
    block
}
