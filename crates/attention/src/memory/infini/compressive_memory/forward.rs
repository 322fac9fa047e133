//! The forward pass.

use longreach_simd::split::Part;
use longreach_simd::team::Scratch;
use longreach_simd::{Kernel, Lanes};

use super::block::Block;
use super::memory::Memory;
use super::{Call, TOKENS};

/// The forward pass of one group of one sequence.
pub(in crate::memory::infini) struct Forward<'a, 'o> {
    pub(in crate::memory::infini) call: &'a Call<'a>,
    pub(in crate::memory::infini) sequence: usize,
    pub(in crate::memory::infini) group: usize,
    /// `[K, V + 1]`
    pub(in crate::memory::infini) memory: &'o mut [f32],
    pub(in crate::memory::infini) pending: &'o mut [f32],
    /// The outputs of the group's heads for each token: local attention on entry, the result on return.
    pub(in crate::memory::infini) out: Part<'o>,
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

/// `out ← a out + b x`
#[inline(always)]
fn mix<S: Lanes>(s: S, a: f32, b: f32, x: &[f32], out: &mut [f32]) {
    let (a, b) = (s.splat(a), s.splat(b));
    for (out, x) in out.chunks_mut(S::LANES).zip(x.chunks(S::LANES)) {
        let y = s.mul(a, s.load_part(out));
        s.store_part(out, s.fma(b, s.load_part(x), y));
    }
}
