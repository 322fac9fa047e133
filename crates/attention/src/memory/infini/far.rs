//! The memory of one group of one sequence: read and written a piece of a segment at a time, by products.

use std::ops::Range;

use longreach_simd::product::{Into, Matrix, Sizes, tile};
use longreach_simd::split::Part;
use longreach_simd::team::Scratch;
use longreach_simd::{Kernel, Lanes, math};

use crate::sequences::Rows;

/// Tokens that products are made of at a time.
const TOKENS: usize = 256;

/// The inputs of a call, a slice a token.
pub(super) struct Call<'a> {
    pub(super) q: Rows<'a>,
    pub(super) k: Rows<'a>,
    pub(super) v: Rows<'a>,
    /// Of every head, how much of the memory it takes.
    pub(super) shares: Vec<f32>,
    /// Pieces of segments, and whether the segment ends with it.
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

/// The gradient through it: the slope is 1 above 0, and below it the feature itself.
#[inline(always)]
fn through_phi<S: Lanes>(s: S, features: &[f32], d: &[f32], out: &mut [f32]) {
    for ((out, f), d) in out.chunks_mut(S::LANES).zip(features.chunks(S::LANES)).zip(d.chunks(S::LANES)) {
        s.store_part(out, s.mul(s.load_part(d), s.min(s.load_part(f), s.splat(1.0))));
    }
}

/// One group of one sequence.
pub(super) struct Forward<'a, 'o> {
    pub(super) call: &'a Call<'a>,
    pub(super) sequence: usize,
    pub(super) group: usize,
    /// `[K, V + 1]`
    pub(super) memory: &'o mut [f32],
    pub(super) pending: &'o mut [f32],
    /// Of each token the outputs of the group's heads: attention inside the segment, and on return all of it.
    pub(super) out: Part<'o>,
}

/// Whether a memory has a token.
#[inline(always)]
fn written(memory: &[f32], width: usize) -> bool {
    memory.chunks(width).any(|row| row[width - 1] != 0.0)
}

/// Rows of scratch that a few tokens take.
struct Few<'m> {
    features: &'m mut [f32],
    rows: &'m mut [f32],
    read: &'m mut [f32],
}

impl Few<'_> {
    /// Features of a head's tokens, and what they read: `[n, V + 1]`, the sums and what they are divided by.
    #[inline(always)]
    fn read<'a, S: Lanes>(
        &mut self,
        s: S,
        rows: &Rows<'a>,
        (first, n): (usize, usize),
        columns: Range<usize>,
        memory: Option<&[f32]>,
    ) {
        let (k, width) = (columns.len(), self.read.len() / (self.features.len() / columns.len().max(1)).max(1));
        for i in 0..n {
            phi(s, &rows.get(first + i)[columns.clone()], &mut self.features[i * k..(i + 1) * k]);
        }
        if let Some(memory) = memory {
            let sizes = Sizes { m: n, n: width, k };
            tile(s, sizes, Matrix::rows(self.features, k), Matrix::rows(memory, width), Into::Set, self.read, width);
        }
    }
}

impl Kernel for Forward<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let call = self.call;
        let (k, v, width, base) = (call.key, call.value, call.value + 1, self.sequence * call.tokens);
        let most = TOKENS.min(call.tokens);
        let scratch = &mut Scratch::new(most * (k + 2 * width));
        let (features, rest) = scratch.split_at_mut(most * k);
        let (rows, read) = rest.split_at_mut(most * width);
        let mut few = Few { features, rows, read };
        for (piece, ends) in &call.pieces {
            let known = written(self.memory, width);
            for first in piece.clone().step_by(TOKENS) {
                let n = TOKENS.min(piece.end - first);
                for (at, h) in call.heads_of(self.group).enumerate().filter(|_| known) {
                    few.read(s, &call.q, (base + first, n), h * k..(h + 1) * k, Some(self.memory));
                    let share = call.shares[h];
                    for (i, read) in few.read[..n * width].chunks(width).enumerate() {
                        let out = &mut self.out.row(first + i)[at * v..(at + 1) * v];
                        math::scale(s, 1.0 - share, out);
                        math::axpy(s, share / read[v].max(call.epsilon), &read[..v], out);
                    }
                }
                few.write(s, call, (base + first, n), self.group, self.memory, known);
                let sizes = Sizes { m: k, n: width, k: n };
                let features = Matrix::rows(few.features, k).t();
                tile(s, sizes, features, Matrix::rows(few.rows, width), Into::Add, self.pending, width);
            }
            if *ends {
                math::axpy(s, 1.0, self.pending, self.memory);
                self.pending.fill(0.0);
            }
        }
    }
}

impl Few<'_> {
    /// What tokens write: their features, and rows of a value, less what the memory has of it, and 1.
    #[inline(always)]
    fn write<S: Lanes>(
        &mut self,
        s: S,
        call: &Call<'_>,
        (first, n): (usize, usize),
        group: usize,
        memory: &[f32],
        known: bool,
    ) {
        let (k, v, width) = (call.key, call.value, call.value + 1);
        let erases = call.delta && known;
        self.read(s, &call.k, (first, n), group * k..(group + 1) * k, erases.then_some(memory));
        for (i, row) in self.rows[..n * width].chunks_mut(width).enumerate() {
            math::copy(s, &call.v.get(first + i)[group * v..(group + 1) * v], &mut row[..v]);
            row[v] = 1.0;
            if erases {
                let read = &self.read[i * width..(i + 1) * width];
                math::axpy(s, -1.0 / read[v].max(call.epsilon), &read[..v], &mut row[..v]);
            }
        }
    }
}

/// The gradient of one group of one sequence.
pub(super) struct Backward<'a, 'o> {
    pub(super) call: &'a Call<'a>,
    pub(super) sequence: usize,
    pub(super) group: usize,
    /// Before the first token.
    pub(super) memory: &'a [f32],
    pub(super) pending: &'a [f32],
    /// Of each token the group's heads: attention inside the segment.
    pub(super) near: &'a Rows<'a>,
    pub(super) d_o: &'a Rows<'a>,
    /// On entry the gradients to what is there after the last token, on return to what was there before the first.
    pub(super) d_memory: &'o mut [f32],
    pub(super) d_pending: &'o mut [f32],
    pub(super) dq: Part<'o>,
    pub(super) dk: Part<'o>,
    pub(super) dv: Part<'o>,
    /// To attention inside the segment.
    pub(super) d_near: Part<'o>,
    /// A number a head.
    pub(super) d_gate: &'o mut [f32],
}

impl Kernel for Backward<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let call = self.call;
        let (k, v, width, base) = (call.key, call.value, call.value + 1, self.sequence * call.tokens);
        let (most, size) = (TOKENS.min(call.tokens), k * width);
        let states = call.pieces.len() * size;
        let scratch = &mut Scratch::new(most * (2 * k + 3 * width) + states + 2 * size);
        let (features, rest) = scratch.split_at_mut(most * k);
        let (d_features, rest) = rest.split_at_mut(most * k);
        let (rows, rest) = rest.split_at_mut(most * width);
        let (read, rest) = rest.split_at_mut(most * width);
        let (d_read, rest) = rest.split_at_mut(most * width);
        let (memory, rest) = rest.split_at_mut(size);
        let (pending, states) = rest.split_at_mut(size);
        let mut few = Few { features, rows, read };
        // The memory before each piece.
        memory.copy_from_slice(self.memory);
        pending.copy_from_slice(self.pending);
        for ((piece, ends), state) in call.pieces.iter().zip(states.chunks_mut(size)) {
            state.copy_from_slice(memory);
            let known = written(memory, width);
            for first in piece.clone().step_by(TOKENS) {
                let n = TOKENS.min(piece.end - first);
                few.write(s, call, (base + first, n), self.group, memory, known);
                let features = Matrix::rows(few.features, k).t();
                let sizes = Sizes { m: k, n: width, k: n };
                tile(s, sizes, features, Matrix::rows(few.rows, width), Into::Add, pending, width);
            }
            if *ends {
                math::axpy(s, 1.0, pending, memory);
                pending.fill(0.0);
            }
        }
        for ((piece, ends), state) in call.pieces.iter().zip(states.chunks(size)).rev() {
            if *ends {
                self.d_pending.copy_from_slice(self.d_memory);
            }
            let known = written(state, width);
            for first in piece.clone().step_by(TOKENS) {
                let n = TOKENS.min(piece.end - first);
                let (to_features, to_state) = (Sizes { m: n, n: k, k: width }, Sizes { m: k, n: width, k: n });
                for (at, h) in call.heads_of(self.group).enumerate() {
                    let columns = at * v..(at + 1) * v;
                    if !known {
                        for i in 0..n {
                            let d_o = &self.d_o.get(base + first + i)[h * v..(h + 1) * v];
                            math::copy(s, d_o, &mut self.d_near.row(first + i)[columns.clone()]);
                        }
                        continue;
                    }
                    few.read(s, &call.q, (base + first, n), h * k..(h + 1) * k, Some(state));
                    let share = call.shares[h];
                    for i in 0..n {
                        let t = base + first + i;
                        let (d_o, near) = (&self.d_o.get(t)[h * v..(h + 1) * v], &self.near.get(t)[h * v..(h + 1) * v]);
                        math::scale_into(s, 1.0 - share, d_o, &mut self.d_near.row(first + i)[columns.clone()]);
                        let (read, d_read) =
                            (&few.read[i * width..(i + 1) * width], &mut d_read[i * width..(i + 1) * width]);
                        let told = through_division(s, share, d_o, read, call.epsilon, d_read);
                        self.d_gate[at] += share * (1.0 - share) * (told - math::dot(s, d_o, near));
                    }
                    let (d_rows, d_matrix) = (Matrix::rows(d_read, width), Matrix::rows(state, width).t());
                    tile(s, to_features, d_rows, d_matrix, Into::Set, d_features, k);
                    for i in 0..n {
                        let of = i * k..(i + 1) * k;
                        let dq = &mut self.dq.row(first + i)[at * k..(at + 1) * k];
                        through_phi(s, &few.features[of.clone()], &d_features[of], dq);
                    }
                    let features = Matrix::rows(few.features, k).t();
                    tile(s, to_state, features, d_rows, Into::Add, self.d_memory, width);
                }
                // What was written.
                few.write(s, call, (base + first, n), self.group, state, known);
                let told = Matrix::rows(self.d_pending, width);
                tile(s, to_features, Matrix::rows(few.rows, width), told.t(), Into::Set, d_features, k);
                let of_rows = Sizes { m: n, n: width, k };
                tile(s, of_rows, Matrix::rows(few.features, k), told, Into::Set, few.rows, width);
                for i in 0..n {
                    math::copy(s, &few.rows[i * width..i * width + v], self.dv.row(first + i));
                }
                if call.delta && known {
                    for i in 0..n {
                        let of = i * width..(i + 1) * width;
                        let (read, d_read) = (&few.read[of.clone()], &mut d_read[of.clone()]);
                        through_division(s, -1.0, &few.rows[of][..v], read, call.epsilon, d_read);
                    }
                    let (d_rows, d_matrix) = (Matrix::rows(d_read, width), Matrix::rows(state, width).t());
                    tile(s, to_features, d_rows, d_matrix, Into::Add, d_features, k);
                    let features = Matrix::rows(few.features, k).t();
                    tile(s, to_state, features, d_rows, Into::Add, self.d_memory, width);
                }
                for i in 0..n {
                    let of = i * k..(i + 1) * k;
                    through_phi(s, &few.features[of.clone()], &d_features[of], self.dk.row(first + i));
                }
            }
        }
    }
}

/// The gradient to sums and to what they are divided by, given `by` times that of the quotient `d` → `⟨d, quotient⟩`.
#[inline(always)]
fn through_division<S: Lanes>(s: S, by: f32, d: &[f32], read: &[f32], epsilon: f32, out: &mut [f32]) -> f32 {
    let v = d.len();
    let over = 1.0 / read[v].max(epsilon);
    let told = over * math::dot(s, d, &read[..v]);
    math::scale_into(s, by * over, d, &mut out[..v]);
    out[v] = if read[v] > epsilon { -by * over * told } else { 0.0 };
    told
}
