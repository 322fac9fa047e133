//! One decoding step of a head whose state is a matrix, shared by all mechanisms with such a state.
//!
//! $$ X \leftarrow \mathrm{Diag}(l)\,X + \sum_m u^m (y^m)^\top, \qquad o = X^\top p $$
//!
//! The state is read and written once, which is the cost of a step. Rows are processed in memory order, whole rows at a
//! time, for the sake of the hardware prefetcher; lanes run along a row, and the sums over rows stay in registers.

use longreach_simd::cache::prefetch_l2_ahead;
use longreach_simd::{Lanes, math};

/// The update of a state `[K, V]` by one token.
#[derive(Clone, Copy)]
pub(crate) struct OneToken<'a, const W: usize> {
    /// The decay `l`: empty for none, one factor for all rows, or one factor per row.
    pub(crate) left: &'a [f32],
    /// `u: [K]`
    pub(crate) write: [&'a [f32]; W],
    /// `y: [V]`
    pub(crate) written: [&'a [f32]; W],
    /// `p: [K]`
    pub(crate) read: &'a [f32],
    /// Whether the output is read before the state is decayed and written.
    pub(crate) read_first: bool,
    /// Whether to prefetch the state that follows this one in memory, which the caller processes next: a state that was
    /// just read leaves memory bandwidth idle.
    pub(crate) prefetch_next: bool,
}

/// Variants of the update: without decay, with decay, and with decay and the output read first.
const UNDECAYED: u8 = 0;
const DECAYED: u8 = 1;
const READ_FIRST: u8 = 2;

/// Calls `$some` with the number of whole vectors in a row and whether there is a partial one, if the sums of a row fit
/// in registers; otherwise evaluates `$wide`.
macro_rules! by_width {
    ($columns:expr, $lanes:expr, $some:ident, $wide:expr) => {
        match ($columns / $lanes, $columns % $lanes > 0) {
            (1, false) => $some!(1, false),
            (2, false) => $some!(2, false),
            (3, false) => $some!(3, false),
            (4, false) => $some!(4, false),
            (5, false) => $some!(5, false),
            (6, false) => $some!(6, false),
            (8, false) => $some!(8, false),
            (0, true) => $some!(0, true),
            (1, true) => $some!(1, true),
            (2, true) => $some!(2, true),
            // Values with a denominator as their last column.
            (4, true) => $some!(4, true),
            (8, true) => $some!(8, true),
            // Instruction sets with eight lanes have half as many registers.
            (12, false) if $lanes != 8 => $some!(12, false),
            (16, false) if $lanes != 8 => $some!(16, false),
            (16, true) if $lanes != 8 => $some!(16, true),
            _ => $wide,
        }
    };
}

impl<const W: usize> OneToken<'_, W> {
    /// Updates the state `[K, V]` and writes the output `out: [V]`.
    #[inline(always)]
    pub(crate) fn pass<S: Lanes>(&self, s: S, state: &mut [f32], out: &mut [f32]) {
        if W == 1 && self.left.is_empty() && !self.read_first {
            return self.dispatch::<S, UNDECAYED>(s, state, out);
        }
        let of_all = Self { left: if self.left.is_empty() { &[1.0] } else { self.left }, ..*self };
        match self.read_first {
            false => of_all.dispatch::<S, DECAYED>(s, state, out),
            true => of_all.dispatch::<S, READ_FIRST>(s, state, out),
        }
    }

    #[inline(always)]
    fn dispatch<S: Lanes, const HOW: u8>(&self, s: S, state: &mut [f32], out: &mut [f32]) {
        macro_rules! some {
            ($n:literal, $part:literal) => {
                self.in_registers::<S, HOW, $n, $part>(s, state, out)
            };
        }
        by_width!(out.len(), S::LANES, some, self.in_memory::<S, HOW>(s, state, out))
    }

    /// For rows of `N` vectors, and a partial one if `PART`: sums stay in registers.
    #[inline(always)]
    fn in_registers<S: Lanes, const HOW: u8, const N: usize, const PART: bool>(
        &self,
        s: S,
        state: &mut [f32],
        out: &mut [f32],
    ) {
        let (columns, whole) = (out.len(), N * S::LANES);
        let (mut y, mut sum) = ([[s.splat(0.0); N]; W], [s.splat(0.0); N]);
        let (mut y_of_part, mut sum_of_part) = ([s.splat(0.0); W], s.splat(0.0));
        for m in 0..W {
            for i in 0..N {
                y[m][i] = s.load(&self.written[m][i * S::LANES..]);
            }
            if PART {
                y_of_part[m] = s.load_part(&self.written[m][whole..]);
            }
        }
        let ahead = size_of_val(state);
        for (r, row) in state.chunks_exact_mut(columns).enumerate() {
            if self.prefetch_next {
                prefetch_l2_ahead(row, ahead);
            }
            let cell = self.row::<S, HOW>(s, r);
            for i in 0..N {
                let mut written = [s.splat(0.0); W];
                for m in 0..W {
                    written[m] = y[m][i];
                }
                let cells = &mut row[i * S::LANES..(i + 1) * S::LANES];
                let x;
                (x, sum[i]) = cell.pass::<HOW>(s, s.load(cells), written, sum[i]);
                s.store(cells, x);
            }
            if PART {
                let cells = &mut row[whole..];
                let x;
                (x, sum_of_part) = cell.pass::<HOW>(s, s.load_part(cells), y_of_part, sum_of_part);
                s.store_part(cells, x);
            }
        }
        for (i, sum) in sum.into_iter().enumerate() {
            s.store(&mut out[i * S::LANES..], sum);
        }
        if PART {
            s.store_part(&mut out[whole..], sum_of_part);
        }
    }

    /// For wider rows: sums are kept in `out`.
    #[inline(always)]
    fn in_memory<S: Lanes, const HOW: u8>(&self, s: S, state: &mut [f32], out: &mut [f32]) {
        let columns = out.len();
        out.fill(0.0);
        let ahead = size_of_val(state);
        for (r, row) in state.chunks_exact_mut(columns.max(1)).enumerate() {
            if self.prefetch_next {
                prefetch_l2_ahead(row, ahead);
            }
            let cell = self.row::<S, HOW>(s, r);
            let whole = columns / S::LANES * S::LANES;
            for at in (0..whole).step_by(S::LANES) {
                let mut written = [s.splat(0.0); W];
                for m in 0..W {
                    written[m] = s.load(&self.written[m][at..]);
                }
                let (x, sum) = cell.pass::<HOW>(s, s.load(&row[at..]), written, s.load(&out[at..]));
                s.store(&mut row[at..], x);
                s.store(&mut out[at..], sum);
            }
            if whole < columns {
                let mut written = [s.splat(0.0); W];
                for m in 0..W {
                    written[m] = s.load_part(&self.written[m][whole..]);
                }
                let (cells, sums) = (&mut row[whole..], &mut out[whole..]);
                let (x, sum) = cell.pass::<HOW>(s, s.load_part(cells), written, s.load_part(sums));
                s.store_part(cells, x);
                s.store_part(sums, sum);
            }
        }
    }

    /// The factors of row `r`.
    #[inline(always)]
    fn row<S: Lanes, const HOW: u8>(&self, s: S, r: usize) -> Row<S, W> {
        let left = match HOW {
            UNDECAYED => 1.0,
            _ => self.left[if self.left.len() > 1 { r } else { 0 }],
        };
        let mut u = [s.splat(0.0); W];
        for m in 0..W {
            u[m] = s.splat(self.write[m][r]);
        }
        Row { left: s.splat(left), u, p: s.splat(self.read[r]) }
    }
}

/// The factors of one row of the state.
#[derive(Clone, Copy)]
struct Row<S: Lanes, const W: usize> {
    left: S::V,
    u: [S::V; W],
    p: S::V,
}

impl<S: Lanes, const W: usize> Row<S, W> {
    /// Updates one vector of cells and adds what it contributes to the output's sum.
    #[inline(always)]
    fn pass<const HOW: u8>(&self, s: S, x: S::V, y: [S::V; W], sum: S::V) -> (S::V, S::V) {
        let mut new = if HOW == UNDECAYED { x } else { s.mul(self.left, x) };
        for m in 0..W {
            new = s.fma(self.u[m], y[m], new);
        }
        (new, s.fma(self.p, if HOW == READ_FIRST { x } else { new }, sum))
    }
}

/// `Xᵀ p` of a state `[K, V]`; `p: [K]`, `out: [V]`.
#[inline(always)]
pub(crate) fn read<S: Lanes>(s: S, state: &[f32], p: &[f32], out: &mut [f32]) {
    macro_rules! some {
        ($n:literal, $part:literal) => {
            read_in_registers::<S, $n, $part>(s, state, p, out)
        };
    }
    by_width!(out.len(), S::LANES, some, read_in_memory(s, state, p, out))
}

/// As [`OneToken::in_registers`].
#[inline(always)]
fn read_in_registers<S: Lanes, const N: usize, const PART: bool>(s: S, state: &[f32], p: &[f32], out: &mut [f32]) {
    let whole = N * S::LANES;
    let (mut sum, mut sum_of_part) = ([s.splat(0.0); N], s.splat(0.0));
    for (row, p) in state.chunks_exact(out.len()).zip(p) {
        let p = s.splat(*p);
        for i in 0..N {
            sum[i] = s.fma(p, s.load(&row[i * S::LANES..]), sum[i]);
        }
        if PART {
            sum_of_part = s.fma(p, s.load_part(&row[whole..]), sum_of_part);
        }
    }
    for (i, sum) in sum.into_iter().enumerate() {
        s.store(&mut out[i * S::LANES..], sum);
    }
    if PART {
        s.store_part(&mut out[whole..], sum_of_part);
    }
}

/// As [`OneToken::in_memory`].
#[inline(always)]
fn read_in_memory<S: Lanes>(s: S, state: &[f32], p: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for (row, p) in state.chunks_exact(out.len().max(1)).zip(p) {
        math::axpy(s, *p, row, out);
    }
}
