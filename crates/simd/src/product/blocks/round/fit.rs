//! The searches for factors, by weighted least squares over a few tries.

use super::{Weighting, inverse};
use crate::{Isa, Kernel, Lanes};

/// Partial sums are kept in as many lanes, so that loops are compiled to vectors and every instruction set adds in the
/// same order.
const LANES: usize = 16;

/// The weighted sums of a fit over `n` numbers, a multiple of [`LANES`].
#[inline(always)]
fn sums<const K: usize>(n: usize, f: impl Fn(usize) -> [f32; K]) -> [f32; K] {
    let mut lanes = [[0.0; LANES]; K];
    for from in (0..n).step_by(LANES) {
        for l in 0..LANES {
            let terms = f(from + l);
            for k in 0..K {
                lanes[k][l] += terms[k];
            }
        }
    }
    let mut sums = [0.0; K];
    for (sum, a) in sums.iter_mut().zip(&lanes) {
        let b: [f32; 8] = std::array::from_fn(|i| a[i] + a[8 + i]);
        let c = [b[0] + b[4], b[1] + b[5], b[2] + b[6], b[3] + b[7]];
        *sum = (c[0] + c[2]) + (c[1] + c[3]);
    }
    sums
}

/// The nearest integer from `least` to `most`.
#[inline(always)]
fn nearest(x: f32, least: f32, most: f32) -> f32 {
    // Adding this number rounds those of moderate size to integers.
    const SHIFT: f32 = 12_582_912.0;
    (x.clamp(least, most) + SHIFT) - SHIFT
}

/// The number of the largest magnitude; the first of those if there are several.
#[inline(always)]
pub(in super::super) fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0f32, |most, x| if x.abs() > most.abs() { *x } else { most })
}

/// The least and the greatest number.
#[inline(always)]
pub(in super::super) fn extremes(x: &[f32]) -> (f32, f32) {
    x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), x| (a.min(*x), b.max(*x)))
}

/// What errors count: with importances `w √(σ² + x²)`, else `otherwise(x)`.
#[inline(always)]
pub(in super::super) fn weights<const N: usize>(
    x: &[f32; N],
    importance: Option<&[f32]>,
    mean_square: f32,
    otherwise: impl Fn(f32) -> f32,
) -> [f32; N] {
    let mut weights = [0.0; N];
    match importance {
        Some(importance) => {
            for i in 0..N {
                weights[i] = importance[i] * (mean_square + x[i] * x[i]).sqrt();
            }
        }
        None => {
            for i in 0..N {
                weights[i] = otherwise(x[i]);
            }
        }
    }
    weights
}

/// As [`weights`], from place `at` of a block's weighting.
#[inline(always)]
pub(in super::super) fn weights_at<const N: usize>(
    x: &[f32; N],
    weighting: Weighting<'_>,
    at: usize,
    otherwise: impl Fn(f32) -> f32,
) -> [f32; N] {
    weights(x, weighting.importance.map(|w| &w[at..at + N]), weighting.mean_square, otherwise)
}

/// The tries of [`with_minimum`].
#[derive(Clone, Copy)]
pub(in super::super) struct Tries {
    /// What is added to the number of steps at first.
    pub(in super::super) from: f32,
    /// What is added each time.
    pub(in super::super) step: f32,
    /// How often.
    pub(in super::super) count: usize,
    /// Whether absolute errors are compared, not squares.
    pub(in super::super) absolute: bool,
}

/// A factor and a minimum of at least 0 with `x ≈ factor · code - minimum`, for codes up to `most`.
///
/// Each try takes a range of some more or fewer steps, rounds to codes, and fits both numbers to these by least squares.
pub(in super::super) fn with_minimum<const N: usize>(
    isa: Isa,
    x: &[f32; N],
    w: &[f32; N],
    most: f32,
    tries: Tries,
) -> (f32, f32) {
    isa.run(WithMinimum { x, w, most, tries })
}

// The searches are kernels, so that the formats share their code.
struct WithMinimum<'a, const N: usize> {
    x: &'a [f32; N],
    w: &'a [f32; N],
    most: f32,
    tries: Tries,
}

impl<const N: usize> Kernel for WithMinimum<'_, N> {
    type Output = (f32, f32);
    #[inline(always)]
    fn run<S: Lanes>(self, _: S) -> (f32, f32) {
        let Self { x, w, most, tries } = self;
        search_with_minimum(x, w, most, tries)
    }
}

#[inline(always)]
fn search_with_minimum<const N: usize>(x: &[f32; N], w: &[f32; N], most: f32, tries: Tries) -> (f32, f32) {
    let (least, greatest) = extremes(x);
    let least = least.min(0.0);
    if greatest <= least {
        return (0.0, -least);
    }
    let [weight, of_x] = sums(N, |i| [w[i], w[i] * x[i]]);
    let (mut best, mut smallest) = ((0.0, least), f32::INFINITY);
    // The first try is the range as it is, and its numbers are not fitted.
    for t in 0..=tries.count {
        let more = if t == 0 { 0.0 } else { tries.from + tries.step * (t - 1) as f32 };
        let by = (most + more) / (greatest - least);
        let mut codes = [0.0; N];
        for i in 0..N {
            codes[i] = nearest(by * (x[i] - best.1), 0.0, most);
        }
        let [of_c, of_cc, of_xc] = sums(N, |i| [w[i] * codes[i], w[i] * codes[i] * codes[i], w[i] * x[i] * codes[i]]);
        let determinant = weight * of_cc - of_c * of_c;
        let (mut factor, mut minimum) = (1.0 / by, least);
        if t > 0 {
            factor = (weight * of_xc - of_x * of_c) / determinant;
            minimum = (of_cc * of_x - of_c * of_xc) / determinant;
            if minimum > 0.0 {
                (factor, minimum) = (of_xc / of_cc, 0.0);
            }
        }
        let [error] = sums(N, |i| {
            let e = (factor * codes[i] + minimum - x[i]).abs();
            [w[i] * if tries.absolute { e } else { e * e }]
        });
        if (t == 0 || determinant > 0.0) && error < smallest {
            (best, smallest) = ((factor, minimum), error);
        }
    }
    if smallest == f32::INFINITY {
        best.0 = (greatest - least) / most;
    }
    (best.0, -best.1)
}

/// A factor of any sign with `x ≈ factor · code` for codes from `-most` to `most - 1`.
///
/// The number of the largest magnitude gets the code of the largest, `-most` and some tenths more or less; the factor
/// is fitted to the codes of each try.
pub(in super::super) fn symmetric<const N: usize>(isa: Isa, x: &[f32; N], w: &[f32; N], most: f32) -> f32 {
    isa.run(Symmetric { x, w, most })
}

struct Symmetric<'a, const N: usize> {
    x: &'a [f32; N],
    w: &'a [f32; N],
    most: f32,
}

impl<const N: usize> Kernel for Symmetric<'_, N> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Lanes>(self, _: S) -> f32 {
        let Self { x, w, most } = self;
        best_factor(x, w, |t| -(most + 0.1 * t), 9, |y| nearest(y, -most, most - 1.0))
    }
}

/// As [`symmetric`], for codes whose values are in a table of which the first is the largest.
pub(in super::super) fn tabled(isa: Isa, x: &[f32; 32], w: &[f32; 32], values: &[i8; 16]) -> f32 {
    isa.run(Tabled { x, w, values })
}

struct Tabled<'a> {
    x: &'a [f32; 32],
    w: &'a [f32; 32],
    values: &'a [i8; 16],
}

impl Kernel for Tabled<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Lanes>(self, _: S) -> f32 {
        let Self { x, w, values } = self;
        // A value is passed where the next one is nearer.
        let (mut limits, mut steps) = ([0.0; 15], [0.0; 15]);
        for k in 0..15 {
            let (this, next) = (f32::from(values[k]), f32::from(values[k + 1]));
            (limits[k], steps[k]) = (0.5 * (this + next), next - this);
        }
        let first = f32::from(values[0]);
        best_factor(
            x,
            w,
            |t| first + t,
            7,
            |y| {
                let mut value = first;
                for k in 0..15 {
                    value += if y > limits[k] { steps[k] } else { 0.0 };
                }
                value
            },
        )
    }
}

/// The place of the value in a table, in ascending order, that is nearest to `y`.
#[inline(always)]
pub(in super::super) fn nearest_of(y: f32, values: &[i8; 16]) -> usize {
    let mut place = 0;
    for pair in values.windows(2) {
        place += usize::from(2.0 * y > f32::from(pair[0]) + f32::from(pair[1]));
    }
    place
}

#[inline(always)]
fn best_factor<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    range: impl Fn(f32) -> f32,
    tries: i16,
    code: impl Fn(f32) -> f32,
) -> f32 {
    let by = inverse(largest(x));
    if by == 0.0 {
        return 0.0;
    }
    // Where nothing counts, the largest number has its own code.
    let (mut factor, mut gain) = (inverse(range(0.0) * by), 0.0);
    for t in 0..=2 * tries {
        // The range as it is comes first: 0, -1, 1, -2, 2 and so on.
        let t = if t % 2 == 0 { t / 2 } else { -(t + 1) / 2 };
        let by = range(f32::from(t)) * by;
        let mut codes = [0.0; N];
        for i in 0..N {
            codes[i] = code(by * x[i]);
        }
        let [xc, cc] = sums(N, |i| [w[i] * x[i] * codes[i], w[i] * codes[i] * codes[i]]);
        // The error is Σ w x² less the gain.
        if cc > 0.0 && xc * xc > gain * cc {
            (factor, gain) = (xc / cc, xc * xc / cc);
        }
    }
    factor
}

/// A factor with `x ≈ factor · code` for numbers and codes that are not negative, up to `most`.
#[inline(always)]
pub(in super::super) fn positive<const K: usize>(x: &[f32; K], w: &[f32; K], most: f32) -> f32 {
    let greatest = x.iter().fold(0.0f32, |a, b| a.max(*b));
    let by = inverse(greatest);
    if by == 0.0 {
        return 0.0;
    }
    let (mut best, mut smallest) = (greatest / most, f32::INFINITY);
    for t in -9..=9i16 {
        let by = (most + 0.1 * f32::from(t)) * by;
        let (mut xc, mut cc) = (0.0, 0.0);
        for i in 0..K {
            let c = nearest(by * x[i], 0.0, most);
            xc += w[i] * x[i] * c;
            cc += w[i] * c * c;
        }
        if cc <= 0.0 {
            continue;
        }
        let factor = xc / cc;
        let mut error = 0.0;
        for i in 0..K {
            let e = x[i] - factor * nearest(x[i] * inverse(factor), 0.0, most);
            error += w[i] * e * e;
        }
        if error < smallest {
            (best, smallest) = (factor, error);
        }
    }
    best
}

/// The codes of numbers: `x · by + shift`, rounded, from 0 to `most`.
#[inline(always)]
pub(in super::super) fn codes(x: &[f32], by: f32, shift: f32, most: f32, codes: &mut [u8]) {
    for (code, x) in codes.iter_mut().zip(x) {
        *code = nearest(x * by + shift, 0.0, most) as u8;
    }
}
