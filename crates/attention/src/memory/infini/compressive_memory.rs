//! The compressive memory of one group of one sequence, read and written with matrix products, one piece of a segment
//! at a time.

use std::ops::Range;

use longreach_simd::product::{Accumulate, Matrix, Sizes, tile};
use longreach_simd::split::Part;
use longreach_simd::team::Scratch;
use longreach_simd::{Kernel, Lanes, math};

use crate::sequences::Rows;

/// Tokens per matrix product.
const TOKENS: usize = 256;

/// The inputs of a call, split into one slice per token.
pub(super) struct Call<'a> {
    pub(super) q: Rows<'a>,
    pub(super) k: Rows<'a>,
    pub(super) v: Rows<'a>,
    /// Each head's gate after the sigmoid: the weight of the memory.
    pub(super) shares: Vec<f32>,
    /// Pieces of segments, and whether the segment ends with the piece.
    pub(super) pieces: Vec<(Range<usize>, bool)>,
    pub(super) tokens: usize,
    pub(super) heads: usize,
    pub(super) groups: usize,
    pub(super) key: usize,
    pub(super) value: usize,
    pub(super) delta: bool,
    pub(super) epsilon: f32,
}

impl Call<'_> {
    fn heads_of(&self, group: usize) -> Range<usize> {
        let shared = self.heads / self.groups;
        group * shared..(group + 1) * shared
    }
}

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

/// The gradient through `phi`: its slope is 1 above 0, and the feature itself below.
#[inline(always)]
fn phi_backward<S: Lanes>(s: S, features: &[f32], d: &[f32], out: &mut [f32]) {
    for ((out, f), d) in out.chunks_mut(S::LANES).zip(features.chunks(S::LANES)).zip(d.chunks(S::LANES)) {
        s.store_part(out, s.mul(s.load_part(d), s.min(s.load_part(f), s.splat(1.0))));
    }
}

/// The forward pass of one group of one sequence.
pub(super) struct Forward<'a, 'o> {
    pub(super) call: &'a Call<'a>,
    pub(super) sequence: usize,
    pub(super) group: usize,
    /// `[K, V + 1]`
    pub(super) memory: &'o mut [f32],
    pub(super) pending: &'o mut [f32],
    /// The outputs of the group's heads for each token: local attention on entry, the result on return.
    pub(super) out: Part<'o>,
}

/// A memory with its last column stored apart: a product with one column more than whole vectors would spend a vector
/// on it.
struct Memory<'m> {
    /// `[K, V]`
    sums: &'m mut [f32],
    /// `z`, `[K]`
    weights: &'m mut [f32],
}

impl<'m> Memory<'m> {
    fn size(k: usize, v: usize) -> usize {
        k * v + k
    }

    /// A memory in a scratch buffer of [`Memory::size`] numbers.
    #[inline(always)]
    fn new(room: &'m mut [f32], k: usize, v: usize) -> Self {
        let (sums, weights) = room.split_at_mut(k * v);
        Self { sums, weights }
    }

    fn width(&self) -> usize {
        self.sums.len() / self.weights.len().max(1)
    }

    /// Loads `[K, V + 1]`.
    #[inline(always)]
    fn unpack(&mut self, from: &[f32]) {
        let v = self.width();
        for (i, row) in from.chunks_exact(v + 1).enumerate() {
            self.sums[i * v..(i + 1) * v].copy_from_slice(&row[..v]);
            self.weights[i] = row[v];
        }
    }

    /// Stores `[K, V + 1]`.
    #[inline(always)]
    fn pack(&self, to: &mut [f32]) {
        let v = self.width();
        for (i, row) in to.chunks_exact_mut(v + 1).enumerate() {
            row[..v].copy_from_slice(&self.sums[i * v..(i + 1) * v]);
            row[v] = self.weights[i];
        }
    }

    #[inline(always)]
    fn copy_from(&mut self, other: &Memory<'_>) {
        self.sums.copy_from_slice(other.sums);
        self.weights.copy_from_slice(other.weights);
    }

    /// Whether any token has been written.
    #[inline(always)]
    fn written(&self) -> bool {
        self.weights.iter().any(|z| *z != 0.0)
    }

    /// At the end of a segment: adds the pending update to the memory and clears it.
    #[inline(always)]
    fn take<S: Lanes>(&mut self, s: S, pending: &mut Memory<'_>) {
        math::axpy(s, 1.0, pending.sums, self.sums);
        math::axpy(s, 1.0, pending.weights, self.weights);
        pending.sums.fill(0.0);
        pending.weights.fill(0.0);
    }

    /// Adds `Σ_i f_i r_iᵀ` to the sums and `Σ_i by_i f_i` to the weights; `by` is 1 for all if `None`.
    #[inline(always)]
    fn add<S: Lanes>(&mut self, s: S, n: usize, features: &[f32], rows: &[f32], by: Option<&[f32]>) {
        let (k, v) = (self.weights.len(), self.width());
        let sizes = Sizes { m: k, n: v, k: n };
        tile(s, sizes, Matrix::rows(features, k).t(), Matrix::rows(rows, v), Accumulate::Add, self.sums, v);
        for (i, features) in features[..n * k].chunks_exact(k.max(1)).enumerate() {
            math::axpy(s, by.map_or(1.0, |by| by[i]), features, self.weights);
        }
    }

    /// The gradient with respect to features that read the memory: `M r_i + by_i z`.
    #[inline(always)]
    fn feature_gradient<S: Lanes>(
        &self,
        s: S,
        n: usize,
        rows: &[f32],
        by: Option<&[f32]>,
        into: Accumulate,
        out: &mut [f32],
    ) {
        let (k, v) = (self.weights.len(), self.width());
        let sizes = Sizes { m: n, n: k, k: v };
        tile(s, sizes, Matrix::rows(rows, v), Matrix::rows(self.sums, v).t(), into, out, k);
        for (i, out) in out[..n * k].chunks_exact_mut(k.max(1)).enumerate() {
            math::axpy(s, by.map_or(1.0, |by| by[i]), self.weights, out);
        }
    }
}

/// Scratch buffers for a block of tokens.
struct Block<'m> {
    /// `[n, K]`
    features: &'m mut [f32],
    /// The values to write, `[n, V]`
    rows: &'m mut [f32],
    /// The values read, `[n, V]`
    read: &'m mut [f32],
    /// Their denominators, `[n]`
    over: &'m mut [f32],
}

impl<'m> Block<'m> {
    fn size(n: usize, k: usize, v: usize) -> usize {
        n * (k + 2 * v + 1)
    }

    /// Buffers in a scratch buffer of [`Block::size`] numbers.
    #[inline(always)]
    fn new(room: &'m mut [f32], n: usize, k: usize, v: usize) -> Self {
        let (features, rest) = room.split_at_mut(n * k);
        let (rows, rest) = rest.split_at_mut(n * v);
        let (read, over) = rest.split_at_mut(n * v);
        Self { features, rows, read, over }
    }

    /// Computes the features of a head's tokens and reads the memory with them.
    #[inline(always)]
    fn read<'a, S: Lanes>(
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
    fn write<S: Lanes>(
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

/// `out ← a out + b x`
#[inline(always)]
fn mix<S: Lanes>(s: S, a: f32, b: f32, x: &[f32], out: &mut [f32]) {
    let (a, b) = (s.splat(a), s.splat(b));
    for (out, x) in out.chunks_mut(S::LANES).zip(x.chunks(S::LANES)) {
        let y = s.mul(a, s.load_part(out));
        s.store_part(out, s.fma(b, s.load_part(x), y));
    }
}

impl Kernel for Forward<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let call = self.call;
        let (k, v, base) = (call.key, call.value, self.sequence * call.tokens);
        let (most, size) = (TOKENS.min(call.tokens), Memory::size(k, v));
        let scratch = &mut Scratch::new(Block::size(most, k, v) + 2 * size);
        let (memory, rest) = scratch.split_at_mut(size);
        let (pending, rest) = rest.split_at_mut(size);
        let mut block = Block::new(rest, most, k, v);
        let (mut memory, mut pending) = (Memory::new(memory, k, v), Memory::new(pending, k, v));
        memory.unpack(self.memory);
        pending.unpack(self.pending);
        for (piece, ends) in &call.pieces {
            let known = memory.written();
            for first in piece.clone().step_by(TOKENS) {
                let n = TOKENS.min(piece.end - first);
                for (at, h) in call.heads_of(self.group).enumerate().filter(|_| known) {
                    block.read(s, &call.q, (base + first, n), h * k..(h + 1) * k, Some(&memory));
                    let share = call.shares[h];
                    for (i, read) in block.read[..n * v].chunks_exact(v.max(1)).enumerate() {
                        let out = &mut self.out.row(first + i)[at * v..(at + 1) * v];
                        mix(s, 1.0 - share, share / block.over[i].max(call.epsilon), read, out);
                    }
                }
                block.write(s, call, (base + first, n), self.group, &memory, known);
                pending.add(s, n, block.features, block.rows, None);
            }
            if *ends {
                memory.take(s, &mut pending);
            }
        }
        memory.pack(self.memory);
        pending.pack(self.pending);
    }
}

/// The backward pass of one group of one sequence.
pub(super) struct Backward<'a, 'o> {
    pub(super) call: &'a Call<'a>,
    pub(super) sequence: usize,
    pub(super) group: usize,
    /// The initial memory.
    pub(super) memory: &'a [f32],
    pub(super) pending: &'a [f32],
    /// The group's heads for each token: the outputs of local attention.
    pub(super) local: &'a Rows<'a>,
    pub(super) d_o: &'a Rows<'a>,
    /// On entry the gradient of the final memory, on return that of the initial one.
    pub(super) d_memory: &'o mut [f32],
    pub(super) d_pending: &'o mut [f32],
    pub(super) dq: Part<'o>,
    pub(super) dk: Part<'o>,
    pub(super) dv: Part<'o>,
    /// The gradient of local attention's outputs.
    pub(super) d_local: Part<'o>,
    /// One number per head.
    pub(super) d_gate: &'o mut [f32],
}

impl Kernel for Backward<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let call = self.call;
        let (k, v, base) = (call.key, call.value, self.sequence * call.tokens);
        let (most, size) = (TOKENS.min(call.tokens), Memory::size(k, v));
        let states = call.pieces.len() * size;
        let scratch = &mut Scratch::new(Block::size(most, k, v) + most * (k + v + 1) + states + 4 * size);
        let (block, rest) = scratch.split_at_mut(Block::size(most, k, v));
        let mut block = Block::new(block, most, k, v);
        let (d_features, rest) = rest.split_at_mut(most * k);
        let (d_read, rest) = rest.split_at_mut(most * v);
        let (d_over, rest) = rest.split_at_mut(most);
        let mut rest = rest;
        let [mut memory, mut pending, mut d_memory, mut d_pending] = std::array::from_fn(|_| {
            let (room, others) = std::mem::take(&mut rest).split_at_mut(size);
            rest = others;
            Memory::new(room, k, v)
        });
        let states = rest;
        // Recompute the memory before each piece.
        memory.unpack(self.memory);
        pending.unpack(self.pending);
        for ((piece, ends), state) in call.pieces.iter().zip(states.chunks_mut(size)) {
            Memory::new(state, k, v).copy_from(&memory);
            let known = memory.written();
            for first in piece.clone().step_by(TOKENS) {
                let n = TOKENS.min(piece.end - first);
                block.write(s, call, (base + first, n), self.group, &memory, known);
                pending.add(s, n, block.features, block.rows, None);
            }
            if *ends {
                memory.take(s, &mut pending);
            }
        }
        d_memory.unpack(self.d_memory);
        d_pending.unpack(self.d_pending);
        for ((piece, ends), state) in call.pieces.iter().zip(states.chunks_mut(size)).rev() {
            let state = &Memory::new(state, k, v);
            if *ends {
                d_pending.copy_from(&d_memory);
            }
            let known = state.written();
            for first in piece.clone().step_by(TOKENS) {
                let n = TOKENS.min(piece.end - first);
                for (at, h) in call.heads_of(self.group).enumerate() {
                    let columns = at * v..(at + 1) * v;
                    if !known {
                        for i in 0..n {
                            let d_o = &self.d_o.get(base + first + i)[h * v..(h + 1) * v];
                            math::copy(s, d_o, &mut self.d_local.row(first + i)[columns.clone()]);
                        }
                        continue;
                    }
                    block.read(s, &call.q, (base + first, n), h * k..(h + 1) * k, Some(state));
                    let share = call.shares[h];
                    for i in 0..n {
                        let t = base + first + i;
                        let (d_o, local) =
                            (&self.d_o.get(t)[h * v..(h + 1) * v], &self.local.get(t)[h * v..(h + 1) * v]);
                        math::scale_into(s, 1.0 - share, d_o, &mut self.d_local.row(first + i)[columns.clone()]);
                        let of = i * v..(i + 1) * v;
                        let read = (&block.read[of.clone()], block.over[i]);
                        let product;
                        (product, d_over[i]) = division_backward(s, share, d_o, read, call.epsilon, &mut d_read[of]);
                        self.d_gate[at] += share * (1.0 - share) * (product - math::dot(s, d_o, local));
                    }
                    state.feature_gradient(s, n, d_read, Some(d_over), Accumulate::Replace, d_features);
                    for i in 0..n {
                        let of = i * k..(i + 1) * k;
                        let dq = &mut self.dq.row(first + i)[at * k..(at + 1) * k];
                        phi_backward(s, &block.features[of.clone()], &d_features[of], dq);
                    }
                    d_memory.add(s, n, block.features, d_read, Some(d_over));
                }
                // Recompute what was written.
                block.write(s, call, (base + first, n), self.group, state, known);
                d_pending.feature_gradient(s, n, block.rows, None, Accumulate::Replace, d_features);
                let (product, sizes) = (Matrix::rows(d_pending.sums, v), Sizes { m: n, n: v, k });
                tile(s, sizes, Matrix::rows(block.features, k), product, Accumulate::Replace, block.rows, v);
                for i in 0..n {
                    math::copy(s, &block.rows[i * v..(i + 1) * v], self.dv.row(first + i));
                }
                if call.delta && known {
                    for i in 0..n {
                        let of = i * v..(i + 1) * v;
                        let read = (&block.read[of.clone()], block.over[i]);
                        let d_row = &block.rows[of.clone()];
                        (_, d_over[i]) = division_backward(s, -1.0, d_row, read, call.epsilon, &mut d_read[of]);
                    }
                    state.feature_gradient(s, n, d_read, Some(d_over), Accumulate::Add, d_features);
                    d_memory.add(s, n, block.features, d_read, Some(d_over));
                }
                for i in 0..n {
                    let of = i * k..(i + 1) * k;
                    phi_backward(s, &block.features[of.clone()], &d_features[of], self.dk.row(first + i));
                }
            }
        }
        d_memory.pack(self.d_memory);
        d_pending.pack(self.d_pending);
    }
}

/// The backward pass of `quotient = read / max(weight, ε)`, whose gradient is `by · d`: writes the gradient of `read` to
/// `out` and returns `⟨d, quotient⟩` and the gradient of `weight`.
#[inline(always)]
fn division_backward<S: Lanes>(
    s: S,
    by: f32,
    d: &[f32],
    (read, weight): (&[f32], f32),
    epsilon: f32,
    out: &mut [f32],
) -> (f32, f32) {
    let over = 1.0 / weight.max(epsilon);
    let product = over * math::dot(s, d, read);
    math::scale_into(s, by * over, d, out);
    (product, if weight > epsilon { -by * over * product } else { 0.0 })
}
