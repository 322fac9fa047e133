//! The backward pass: the memory before each piece is computed again, then the pieces are read from the last.

use longreach_simd::product::{Accumulate, Matrix, Sizes, tile};
use longreach_simd::split::Part;
use longreach_simd::team::Scratch;
use longreach_simd::{Kernel, Lanes, math};

use super::block::Block;
use super::memory::Memory;
use super::{Call, TOKENS};
use crate::sequences::Rows;

/// The backward pass of one group of one sequence.
pub(in crate::memory::infini) struct Backward<'a, 'o> {
    pub(in crate::memory::infini) call: &'a Call<'a>,
    pub(in crate::memory::infini) sequence: usize,
    pub(in crate::memory::infini) group: usize,
    /// The initial memory.
    pub(in crate::memory::infini) memory: &'a [f32],
    pub(in crate::memory::infini) pending: &'a [f32],
    /// The group's heads for each token: the outputs of local attention.
    pub(in crate::memory::infini) local: &'a Rows<'a>,
    pub(in crate::memory::infini) d_o: &'a Rows<'a>,
    /// On entry the gradient of the final memory, on return that of the initial one.
    pub(in crate::memory::infini) d_memory: &'o mut [f32],
    pub(in crate::memory::infini) d_pending: &'o mut [f32],
    pub(in crate::memory::infini) dq: Part<'o>,
    pub(in crate::memory::infini) dk: Part<'o>,
    pub(in crate::memory::infini) dv: Part<'o>,
    /// The gradient of local attention's outputs.
    pub(in crate::memory::infini) d_local: Part<'o>,
    /// One number per head.
    pub(in crate::memory::infini) d_gate: &'o mut [f32],
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

/// The gradient through `phi`: its slope is 1 above 0, and the feature itself below.
#[inline(always)]
fn phi_backward<S: Lanes>(s: S, features: &[f32], d: &[f32], out: &mut [f32]) {
    for ((out, f), d) in out.chunks_mut(S::LANES).zip(features.chunks(S::LANES)).zip(d.chunks(S::LANES)) {
        s.store_part(out, s.mul(s.load_part(d), s.min(s.load_part(f), s.splat(1.0))));
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
