//! A block of tokens: their features, what they read from a memory, and what they write to it.

use std::ops::Range;

use longreach_simd::product::{Accumulate, Matrix, Sizes, tile};
use longreach_simd::{Lanes, math};

use super::Call;
use super::memory::Memory;
use crate::sequences::Rows;

/// `elu(x) + 1`
#[inline(always)]
fn phi<S: Lanes>(s: S, x: &[f32], out: &mut [f32]) {
    let zero = s.splat(0.0);
    for (out, x) in out.chunks_mut(S::LANES).zip(x.chunks(S::LANES)) {
        let x = s.load_part(x);
        let above = s.select_lt(x, zero, zero, x);
        s.store_part(out, s.add(math::exp(s, s.select_lt(x, zero, x, zero)), above));
    }
}

/// Scratch buffers for a block of tokens.
pub(super) struct Block<'m> {
    /// `[n, K]`
    pub(super) features: &'m mut [f32],
    /// The values to write, `[n, V]`
    pub(super) rows: &'m mut [f32],
    /// The values read, `[n, V]`
    pub(super) read: &'m mut [f32],
    /// Their denominators, `[n]`
    pub(super) over: &'m mut [f32],
}

impl<'m> Block<'m> {
    pub(super) fn size(n: usize, k: usize, v: usize) -> usize {
        n * (k + 2 * v + 1)
    }

    /// Buffers in a scratch buffer of [`Block::size`] numbers.
    #[inline(always)]
    pub(super) fn new(room: &'m mut [f32], n: usize, k: usize, v: usize) -> Self {
        let (features, rest) = room.split_at_mut(n * k);
        let (rows, rest) = rest.split_at_mut(n * v);
        let (read, over) = rest.split_at_mut(n * v);
        Self { features, rows, read, over }
    }

    /// Computes the features of a head's tokens and reads the memory with them.
    #[inline(always)]
    pub(super) fn read<'a, S: Lanes>(
        &mut self,
        s: S,
        rows: &Rows<'a>,
        (first, n): (usize, usize),
        columns: Range<usize>,
        memory: Option<&Memory<'_>>,
    ) {
        let k = columns.len();
        for i in 0..n {
            phi(s, &rows.get(first + i)[columns.clone()], &mut self.features[i * k..(i + 1) * k]);
        }
        if let Some(memory) = memory {
            let v = memory.width();
            let sizes = Sizes { m: n, n: v, k };
            tile(
                s,
                sizes,
                Matrix::rows(self.features, k),
                Matrix::rows(memory.sums, v),
                Accumulate::Replace,
                self.read,
                v,
            );
            for i in 0..n {
                self.over[i] = math::dot(s, &self.features[i * k..(i + 1) * k], memory.weights);
            }
        }
    }

    /// Computes what tokens write: their features and values, less what the memory returns for the key under the delta
    /// rule.
    #[inline(always)]
    pub(super) fn write<S: Lanes>(
        &mut self,
        s: S,
        call: &Call<'_>,
        (first, n): (usize, usize),
        group: usize,
        memory: &Memory<'_>,
        known: bool,
    ) {
        let (k, v) = (call.key, call.value);
        let erases = call.delta && known;
        self.read(s, &call.k, (first, n), group * k..(group + 1) * k, erases.then_some(memory));
        for i in 0..n {
            let (value, of) = (&call.v.get(first + i)[group * v..(group + 1) * v], i * v..(i + 1) * v);
            if erases {
                let by = -1.0 / self.over[i].max(call.epsilon);
                sum_into(s, by, &self.read[of.clone()], value, &mut self.rows[of]);
            } else {
                math::copy(s, value, &mut self.rows[of]);
            }
        }
    }
}

/// `out = a x + y`
#[inline(always)]
fn sum_into<S: Lanes>(s: S, a: f32, x: &[f32], y: &[f32], out: &mut [f32]) {
    let a = s.splat(a);
    for ((out, x), y) in out.chunks_mut(S::LANES).zip(x.chunks(S::LANES)).zip(y.chunks(S::LANES)) {
        s.store_part(out, s.fma(a, s.load_part(x), s.load_part(y)));
    }
}
