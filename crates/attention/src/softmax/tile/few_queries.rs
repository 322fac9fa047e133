//! Few queries and a block of keys: scores, exponentials and weighted sums of values.
//!
//! Four keys or values are loaded at once, and all queries that read them are served from registers. There are no closures in
//! the loops, since a closure is not compiled for the kernel's instruction set.

use longreach_simd::cache::prefetch_ahead;
use longreach_simd::product::Cached;
use longreach_simd::{Lanes, math};

use super::{HIDDEN, higher};

/// Keys that are processed at once.
const KEYS: usize = 4;
/// Prefetch distance in bytes.
const PREFETCH_DISTANCE: usize = 4096;

/// The rows of a task that visit a block of keys.
pub(super) struct Block<'a> {
    /// Indices of rows, those of a group of heads next to each other.
    pub(super) visiting: &'a [usize],
    /// Where each group's end among these.
    pub(super) ends: &'a [usize],
    /// The distance of the scores of two rows.
    pub(super) rows_per_block: usize,
}

impl Block<'_> {
    /// The rows of a group.
    #[inline(always)]
    fn group(&self, group: usize) -> &[usize] {
        &self.visiting[if group == 0 { 0 } else { self.ends[group - 1] }..self.ends[group]]
    }

    /// The scores of the block's keys: `q: [rows, wide D]`, each key `[G, D]`.
    #[inline(always)]
    pub(super) fn scores<S: Lanes, T: Cached>(
        &self,
        s: S,
        keys: &[&[T]],
        (q, wide, d): (&[f32], usize, usize),
        scores: &mut [f32],
    ) {
        for (n, some) in keys.chunks(KEYS).enumerate() {
            for group in 0..self.ends.len() {
                let elements = d / T::NUMBERS;
                let mut keys = [&some[0][group * elements..(group + 1) * elements]; KEYS];
                for (key, token) in keys.iter_mut().zip(some) {
                    *key = &token[group * elements..(group + 1) * elements];
                    prefetch_ahead(key, PREFETCH_DISTANCE);
                }
                for rows in self.group(group).chunks(rows_at_once::<S>()) {
                    match *rows {
                        [a, b, c, d] => {
                            self.write(n, some.len(), rows, dots(s, &keys, [a, b, c, d], (q, wide)), scores)
                        }
                        [a, b, c] => self.write(n, some.len(), rows, dots(s, &keys, [a, b, c], (q, wide)), scores),
                        [a, b] => self.write(n, some.len(), rows, dots(s, &keys, [a, b], (q, wide)), scores),
                        [a] => self.write(n, some.len(), rows, dots(s, &keys, [a], (q, wide)), scores),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Stores the scores of the first `keys` of the `n`th keys that are processed at once.
    #[inline(always)]
    fn write<const R: usize>(&self, n: usize, keys: usize, rows: &[usize], sums: [[f32; KEYS]; R], scores: &mut [f32]) {
        for (row, sums) in rows.iter().zip(&sums) {
            let at = row * self.rows_per_block + KEYS * n;
            // A copy of constant length is a store and not a call.
            match keys {
                KEYS => scores[at..at + KEYS].copy_from_slice(sums),
                _ => scores[at..at + keys].copy_from_slice(&sums[..keys]),
            }
        }
    }

    /// Adds the block's values, each `[G, E]`, with the rows' weights to `sums: [rows, wide E]`.
    #[inline(always)]
    pub(super) fn sums<S: Lanes, T: Cached>(
        &self,
        s: S,
        values: &[&[T]],
        weights: &[f32],
        (sums, wide, e): (&mut [f32], usize, usize),
    ) {
        for (n, some) in values.chunks(KEYS).enumerate() {
            for group in 0..self.ends.len() {
                let elements = e / T::NUMBERS;
                let mut values = [&[][..]; KEYS];
                for (value, token) in values.iter_mut().zip(some) {
                    *value = &token[group * elements..(group + 1) * elements];
                    prefetch_ahead(value, KEYS * size_of_val(*token));
                }
                for rows in self.group(group).chunks(2) {
                    if let [a, b] = *rows
                        && b == a + 1
                        && let Some(first) = nonzero(self.weights(weights, a, n, some.len()))
                        && let Some(second) = nonzero(self.weights(weights, b, n, some.len()))
                    {
                        add_values_twice(s, [first, second], &values, &mut sums[a * wide..(b + 1) * wide], wide);
                        continue;
                    }
                    for row in rows {
                        let sums = &mut sums[row * wide..(row + 1) * wide];
                        add_values(s, self.weights(weights, *row, n, some.len()), &values[..some.len()], sums);
                    }
                }
            }
        }
    }

    /// A row's weights of the first `keys` of the `n`th keys that are processed at once.
    #[inline(always)]
    fn weights<'a>(&self, weights: &'a [f32], row: usize, n: usize, keys: usize) -> &'a [f32] {
        let at = row * self.rows_per_block + KEYS * n;
        &weights[at..at + keys]
    }
}

/// How many queries share loaded keys: as many as accumulators fit in registers.
#[inline(always)]
fn rows_at_once<S: Lanes>() -> usize {
    if S::LANES >= 16 { 4 } else { 2 }
}

/// `q k` of some keys with each of `R` rows of `q: [rows, wide D]`; a sum does not depend on the others.
#[inline(always)]
fn dots<S: Lanes, T: Cached, const R: usize>(
    s: S,
    keys: &[&[T]; KEYS],
    rows: [usize; R],
    (q, wide): (&[f32], usize),
) -> [[f32; KEYS]; R] {
    let d = keys[0].len() * T::NUMBERS;
    let whole = d / S::LANES * S::LANES;
    let mut sums = [[s.splat(0.0); KEYS]; R];
    let mut at = 0;
    while at < whole {
        let part = [
            T::load_at(s, keys[0], at),
            T::load_at(s, keys[1], at),
            T::load_at(s, keys[2], at),
            T::load_at(s, keys[3], at),
        ];
        for r in 0..R {
            let q = s.load(&q[rows[r] * wide + at..]);
            for n in 0..KEYS {
                sums[r][n] = s.fma(part[n], q, sums[r][n]);
            }
        }
        at += S::LANES;
    }
    let mut out = [[0.0; KEYS]; R];
    for r in 0..R {
        out[r] = s.sums(sums[r]);
        if whole < d {
            let q = &q[rows[r] * wide..rows[r] * wide + d];
            for n in 0..KEYS {
                let mut rest = 0.0;
                for at in whole..d {
                    rest += T::number(keys[n], at) * q[at];
                }
                out[r][n] += rest;
            }
        }
    }
    out
}

/// `q k`
#[inline(always)]
pub(super) fn dot<S: Lanes, T: Cached>(s: S, key: &[T], q: &[f32]) -> f32 {
    let mut sum = s.splat(0.0);
    let d = key.len() * T::NUMBERS;
    let whole = d / S::LANES * S::LANES;
    for at in (0..whole).step_by(S::LANES) {
        sum = s.fma(T::load_at(s, key, at), s.load(&q[at..]), sum);
    }
    let mut rest = 0.0;
    for at in whole..d {
        rest += T::number(key, at) * q[at];
    }
    s.sum(sum) + rest
}

/// The weights, if there are as many as keys are processed at once, and none is zero.
#[inline(always)]
fn nonzero(weights: &[f32]) -> Option<[f32; KEYS]> {
    match *weights {
        [a, b, c, d] if a != 0.0 && b != 0.0 && c != 0.0 && d != 0.0 => Some([a, b, c, d]),
        _ => None,
    }
}

/// As [`add_values`], for two queries that read the same values; their sums are `wide` apart.
#[inline(always)]
fn add_values_twice<S: Lanes, T: Cached>(
    s: S,
    weights: [[f32; KEYS]; 2],
    values: &[&[T]; KEYS],
    sums: &mut [f32],
    wide: usize,
) {
    let e = values[0].len() * T::NUMBERS;
    let whole = e / S::LANES * S::LANES;
    let mut factors = [[s.splat(0.0); KEYS]; 2];
    for r in 0..2 {
        for n in 0..KEYS {
            factors[r][n] = s.splat(weights[r][n]);
        }
    }
    let mut at = 0;
    while at < whole {
        let part = [
            T::load_at(s, values[0], at),
            T::load_at(s, values[1], at),
            T::load_at(s, values[2], at),
            T::load_at(s, values[3], at),
        ];
        for r in 0..2 {
            let to = &mut sums[r * wide + at..];
            let mut sum = s.load(to);
            for n in 0..KEYS {
                sum = s.fma(factors[r][n], part[n], sum);
            }
            s.store(to, sum);
        }
        at += S::LANES;
    }
    for at in whole..e {
        for r in 0..2 {
            for n in 0..KEYS {
                sums[r * wide + at] += weights[r][n] * T::number(values[n], at);
            }
        }
    }
}

/// Turns scores into exponentials, and updates the running maximum, the sum of exponentials and the weighted values.
#[inline(always)]
pub(super) fn exponentials<S: Lanes>(s: S, scores: &mut [f32], highest: &mut f32, total: &mut f32, sums: &mut [f32]) {
    // The maximum of lanes may ignore a NaN. The exponential of a NaN is NaN, so the total is NaN, which is checked below.
    let mut highs = s.splat(*highest);
    for part in scores.chunks_exact(S::LANES) {
        highs = s.max(s.load(part), highs);
    }
    let mut lanes = [HIDDEN; 16];
    s.store(&mut lanes, highs);
    let mut high = *highest;
    for x in &lanes[..S::LANES] {
        high = higher(high, *x);
    }
    let base = if high <= HIDDEN { 0.0 } else { high };
    if high != *highest {
        let shrink = (*highest - base).exp2();
        *total *= shrink;
        for sums in sums.chunks_exact_mut(S::LANES) {
            s.store(sums, s.mul(s.splat(shrink), s.load(sums)));
        }
    }
    *highest = high;
    let mut sum = s.splat(0.0);
    for part in scores.chunks_exact_mut(S::LANES) {
        let p = math::exp2(s, s.sub(s.load(part), s.splat(base)));
        s.store(part, p);
        sum = s.add(sum, p);
    }
    *total += s.sum(sum);
    if total.is_nan() {
        *highest = f32::NAN;
    }
}

/// `sums += Σ w v`; a value of zero weight is not read.
#[inline(always)]
pub(super) fn add_values<S: Lanes, T: Cached>(s: S, weights: &[f32], values: &[&[T]], sums: &mut [f32]) {
    if let ([a, b, c, d], [va, vb, vc, vd]) = (weights, values)
        && *a != 0.0
        && *b != 0.0
        && *c != 0.0
        && *d != 0.0
    {
        let e = va.len() * T::NUMBERS;
        let whole = e / S::LANES * S::LANES;
        let (wa, wb, wc, wd) = (s.splat(*a), s.splat(*b), s.splat(*c), s.splat(*d));
        for at in (0..whole).step_by(S::LANES) {
            let mut sum = s.load(&sums[at..]);
            sum = s.fma(wa, T::load_at(s, va, at), sum);
            sum = s.fma(wb, T::load_at(s, vb, at), sum);
            sum = s.fma(wc, T::load_at(s, vc, at), sum);
            sum = s.fma(wd, T::load_at(s, vd, at), sum);
            s.store(&mut sums[at..], sum);
        }
        for at in whole..e {
            for (weight, value) in weights.iter().zip(values) {
                sums[at] += weight * T::number(value, at);
            }
        }
        return;
    }
    for (weight, value) in weights.iter().zip(values) {
        if *weight == 0.0 {
            continue;
        }
        let e = value.len() * T::NUMBERS;
        let whole = e / S::LANES * S::LANES;
        for at in (0..whole).step_by(S::LANES) {
            let sum = s.fma(s.splat(*weight), T::load_at(s, value, at), s.load(&sums[at..]));
            s.store(&mut sums[at..], sum);
        }
        for at in whole..e {
            sums[at] += weight * T::number(value, at);
        }
    }
}
