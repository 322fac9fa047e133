//! What formats of 32 share.

use super::fit::{Tries, extremes, largest, symmetric, weights, with_minimum};
use super::{Weighting, inverse};

/// The factor of a block without a minimum, for codes from `-most` to `most - 1`: without importances such that the
/// code of the weight of the largest magnitude stands for that weight exactly.
#[inline(always)]
pub(in super::super) fn factor(x: &[f32], weighting: Weighting<'_>, most: f32) -> f32 {
    let x: &[f32; 32] = x.try_into().expect("a block of 32");
    match weighting.importance {
        None => largest(x) / -most,
        Some(_) => symmetric(weighting.isa, x, &weights(x, weighting.importance, weighting.mean_square, |_| 1.0), most),
    }
}

/// The codes of a block without a minimum, raised by `most`: those below are cut off by the conversion.
#[inline(always)]
pub(in super::super) fn raised(x: &[f32], factor: f32, most: u8) -> [u8; 32] {
    let by = inverse(factor);
    let mut codes = [0; 32];
    for (code, x) in codes.iter_mut().zip(x) {
        *code = ((x * by + (f32::from(most) + 0.5)) as u8).min(2 * most - 1);
    }
    codes
}

/// The factor and the minimum of a block with codes up to `most`: without importances such that the codes
/// of the least and the greatest weight stand for these exactly.
#[inline(always)]
pub(in super::super) fn factor_and_minimum(x: &[f32], weighting: Weighting<'_>, most: f32) -> (f32, f32) {
    let x: &[f32; 32] = x.try_into().expect("a block of 32");
    let (least, greatest) = extremes(x);
    let Some(_) = weighting.importance else { return ((greatest - least) / most, least) };
    // The search is for minima of at most 0, and what is above is shifted to there.
    let shift = least.max(0.0);
    let moved = x.map(|x| x - shift);
    let w = weights(x, weighting.importance, weighting.mean_square, |_| 1.0);
    let tries = Tries { from: -0.9, step: 0.05, count: 37, absolute: false };
    let (factor, minimum) = with_minimum(weighting.isa, &moved, &w, most, tries);
    (factor, shift - minimum)
}

/// The codes of a block with a minimum.
#[inline(always)]
pub(in super::super) fn above(x: &[f32], factor: f32, minimum: f32, most: u8) -> [u8; 32] {
    let by = inverse(factor);
    let mut codes = [0; 32];
    for (code, x) in codes.iter_mut().zip(x) {
        *code = (((x - minimum) * by + 0.5) as u8).min(most);
    }
    codes
}

/// The fifth bits of the codes.
#[inline(always)]
pub(in super::super) fn fifth_bits(codes: &[u8; 32]) -> [u8; 4] {
    let bits = codes.iter().rev().fold(0u32, |bits, code| bits << 1 | u32::from(code >> 4 & 1));
    bits.to_le_bytes()
}
