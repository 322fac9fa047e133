//! One pass of tokens over a matrix: outer products are added, vectors are read, and the matrix is rescaled at cuts.
//! Every sweep of the family, forward and backward, has this form.
//!
//! $$ X_t = X_{t-1} + \sum_m u^m_t (y^m_t)^\top, \qquad o^m_t = X_t^\top p^m_t $$
//!
//! or, where tokens read before they write ([`ReadFirst`]), `o_t = X_{t-1}ᵀ p_t`.
//!
//! Lanes run along the columns. The pass takes a few vectors of columns at a time, which stay in the first-level cache
//! for all rows while the tokens of a chunk go by. Each load and store of a row serves two or four tokens, since
//! stores are the bottleneck. On a CPU the matrix products of a chunked form would run on the same units and be no
//! cheaper.

use longreach_simd::{Isa, Kernel, Lanes};

use super::decay::Cuts;

mod carry;
mod cells;
mod pairs;
mod sweep;

pub(super) use carry::{Carry, Independent, NoPrefetch, Prefetch, ReadFirst, Step};
pub(super) use cells::transpose;

/// The largest number of vectors of columns taken at a time. Scratch rows have room for as many.
const WIDE: usize = 4;
const HALF: usize = WIDE / 2;
/// Rows of the matrix between prefetches.
const ROWS_PER_PREFETCH: usize = 8;

/// A pass with `W` writes and `P` reads per token.
pub(super) struct Pass<'a, C, const W: usize, const P: usize> {
    pub(super) tokens: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// `[rows, columns]`
    pub(super) matrix: &'a mut [f32],
    /// Whether the last token is processed first. The layout of the rows does not depend on it.
    pub(super) reverse: bool,
    pub(super) cuts: Cuts<'a>,
    /// `u: [tokens, rows]`
    pub(super) write: [&'a [f32]; W],
    /// `y: [tokens, columns]`
    pub(super) written: [&'a mut [f32]; W],
    /// `p: [tokens, rows]`
    pub(super) read: [&'a [f32]; P],
    /// `o: [tokens, columns]`
    pub(super) out: [&'a mut [f32]; P],
    pub(super) carry: C,
    pub(super) prefetch: &'a dyn Prefetch,
}

/// Runs a pass; `(tokens, rows, columns, reverse)` are its sizes and direction.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a pass has many parts")]
pub(super) fn run_pass<C: Carry<W, P>, const W: usize, const P: usize>(
    isa: Isa,
    (tokens, rows, columns, reverse): (usize, usize, usize, bool),
    matrix: &mut [f32],
    cuts: Cuts<'_>,
    write: [&[f32]; W],
    written: [&mut [f32]; W],
    read: [&[f32]; P],
    out: [&mut [f32]; P],
    carry: C,
    prefetch: &dyn Prefetch,
) {
    isa.run(Pass { tokens, rows, columns, matrix, reverse, cuts, write, written, read, out, carry, prefetch });
}

/// How the matrix is decayed: not at all, by one factor, by one per row, or by one per column.
const NONE: u8 = 0;
const WHOLE: u8 = 1;
const ROWS: u8 = 2;
const COLUMNS: u8 = 3;

impl<C: Carry<W, P>, const W: usize, const P: usize> Kernel for Pass<'_, C, W, P> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let mut at = 0;
        // One write and one read use four tokens and half as many columns instead; two writes and two reads need the
        // registers for two tokens.
        let wide = S::LANES >= 16 && (2..4).contains(&(W * P)) && !C::READS_FIRST;
        while wide && at + WIDE * S::LANES <= self.columns {
            self.block::<S, WIDE>(s, at);
            at += WIDE * S::LANES;
        }
        while at + HALF * S::LANES <= self.columns {
            self.block::<S, HALF>(s, at);
            at += HALF * S::LANES;
        }
        while at < self.columns {
            self.block::<S, 1>(s, at);
            at += S::LANES;
        }
    }
}
