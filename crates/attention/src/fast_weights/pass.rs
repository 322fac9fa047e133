//! A matrix that is decayed, written to by outer products and read, token by token: what every mechanism whose state is a matrix does,
//! forwards and backwards.
//!
//! $$ X_t = \gamma_t \odot X_{t-1} + \sum_m u^m_t (y^m_t)^\top, \qquad o^m_t = X_t^\top p^m_t $$
//!
//! Lanes run along the columns. So many columns are taken at a time that all rows of them stay in the first cache while the tokens of a chunk
//! pass: a cell costs as many operations as the equation has, and is loaded and stored once a token. On a CPU, whose matrix products are made
//! of the same operations, the products of a chunked form are no cheaper.

use std::ops::Range;

use longreach_simd::Lanes;

/// Tokens whose rows are gathered at a time.
pub(super) const TOKENS: usize = 64;
/// Vectors of a row that are taken at a time.
const WIDE: usize = 4;

/// How the matrix is decayed at each token: factors, not logarithms.
#[derive(Clone, Copy)]
pub(super) enum Decay<'a> {
    /// One factor a token.
    Token(&'a [f32]),
    /// A factor a row, `[tokens, rows]`.
    Rows(&'a [f32]),
    /// A factor a column, `[tokens, columns]`.
    Columns(&'a [f32]),
}

/// What `W` writes and `P` reads a token do to the matrix.
pub(super) struct Pass<'a, const W: usize, const P: usize> {
    pub(super) tokens: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) decay: Decay<'a>,
    /// `u: [tokens, rows]`
    pub(super) write: [&'a [f32]; W],
    /// `y: [tokens, columns]`
    pub(super) written: [&'a mut [f32]; W],
    /// `p: [tokens, rows]`
    pub(super) read: [&'a [f32]; P],
    /// `o: [tokens, columns]`
    pub(super) out: [&'a mut [f32]; P],
}

/// What a token's reads change of what the next one writes.
pub(super) trait Carry<const W: usize, const P: usize> {
    /// Token `t` has been read: a few of its columns, given by where they stand in `out`, and where those of the next token stand in `written`.
    fn carry<S: Lanes>(
        &self,
        s: S,
        t: usize,
        at: [Range<usize>; 2],
        written: &mut [&mut [f32]; W],
        out: &[&mut [f32]; P],
    );
}

/// Nothing.
pub(super) struct Nothing;

impl<const W: usize, const P: usize> Carry<W, P> for Nothing {
    #[inline(always)]
    fn carry<S: Lanes>(&self, _: S, _: usize, _: [Range<usize>; 2], _: &mut [&mut [f32]; W], _: &[&mut [f32]; P]) {}
}

const TOKEN: u8 = 0;
const ROWS: u8 = 1;
const COLUMNS: u8 = 2;

impl<const W: usize, const P: usize> Pass<'_, W, P> {
    /// Takes `matrix: [rows, columns]` through the tokens.
    #[inline(always)]
    pub(super) fn run<S: Lanes>(mut self, s: S, matrix: &mut [f32], carry: &impl Carry<W, P>) {
        match self.decay {
            Decay::Token(by) => self.all::<S, TOKEN>(s, by, matrix, carry),
            Decay::Rows(by) => self.all::<S, ROWS>(s, by, matrix, carry),
            Decay::Columns(by) => self.all::<S, COLUMNS>(s, by, matrix, carry),
        }
    }

    #[inline(always)]
    fn all<S: Lanes, const BY: u8>(&mut self, s: S, by: &[f32], matrix: &mut [f32], carry: &impl Carry<W, P>) {
        let mut at = 0;
        while at + WIDE * S::LANES <= self.columns {
            self.some::<S, BY, WIDE>(s, by, matrix, at, carry);
            at += WIDE * S::LANES;
        }
        while at < self.columns {
            self.some::<S, BY, 1>(s, by, matrix, at, carry);
            at += S::LANES;
        }
    }

    /// The columns from `at` on: `N` vectors of them, or what there is of one.
    #[inline(always)]
    fn some<S: Lanes, const BY: u8, const N: usize>(
        &mut self,
        s: S,
        by: &[f32],
        matrix: &mut [f32],
        at: usize,
        carry: &impl Carry<W, P>,
    ) {
        let (rows, columns) = (self.rows, self.columns);
        let end = (at + N * S::LANES).min(columns);
        let zero = s.splat(0.0);
        for t in 0..self.tokens {
            let mut y = [[zero; N]; W];
            for (y, written) in y.iter_mut().zip(&self.written) {
                load(s, &written[t * columns + at..t * columns + end], y);
            }
            let mut factor = [s.splat(if BY == TOKEN { by[t] } else { 1.0 }); N];
            if BY == COLUMNS {
                load(s, &by[t * columns + at..t * columns + end], &mut factor);
            }
            let mut u = [&[][..]; W];
            for (u, write) in u.iter_mut().zip(&self.write) {
                *u = &write[t * rows..(t + 1) * rows];
            }
            let mut p = [&[][..]; P];
            for (p, read) in p.iter_mut().zip(&self.read) {
                *p = &read[t * rows..(t + 1) * rows];
            }
            let by_row = if BY == ROWS { &by[t * rows..(t + 1) * rows] } else { &[][..] };
            let mut sum = [[zero; N]; P];
            for (r, row) in matrix.chunks_exact_mut(columns).enumerate() {
                let row = &mut row[at..end];
                let mut x = [zero; N];
                load(s, row, &mut x);
                if BY == ROWS {
                    factor = [s.splat(by_row[r]); N];
                }
                for i in 0..N {
                    x[i] = s.mul(x[i], factor[i]);
                }
                for m in 0..W {
                    let u = s.splat(u[m][r]);
                    for i in 0..N {
                        x[i] = s.fma(u, y[m][i], x[i]);
                    }
                }
                store(s, &x, row);
                for m in 0..P {
                    let p = s.splat(p[m][r]);
                    for i in 0..N {
                        sum[m][i] = s.fma(p, x[i], sum[m][i]);
                    }
                }
            }
            for (sum, out) in sum.iter().zip(&mut self.out) {
                store(s, sum, &mut out[t * columns + at..t * columns + end]);
            }
            if t + 1 < self.tokens {
                let [here, next] = [t, t + 1].map(|t| t * columns + at..t * columns + end);
                carry.carry(s, t, [here, next], &mut self.written, &self.out);
            }
        }
    }
}

/// `N` vectors; the last one may be there in part, if it is the only one.
#[inline(always)]
fn load<S: Lanes, const N: usize>(s: S, x: &[f32], v: &mut [S::V; N]) {
    if N == 1 {
        v[0] = s.load_part(x);
        return;
    }
    for (i, v) in v.iter_mut().enumerate() {
        *v = s.load(&x[i * S::LANES..]);
    }
}

/// As [`load`].
#[inline(always)]
fn store<S: Lanes, const N: usize>(s: S, v: &[S::V; N], x: &mut [f32]) {
    if N == 1 {
        s.store_part(x, v[0]);
        return;
    }
    for (i, v) in v.iter().enumerate() {
        s.store(&mut x[i * S::LANES..], *v);
    }
}

/// `Xᵀ p` of a matrix `[rows, columns]`.
#[inline(always)]
pub(super) fn read<S: Lanes>(s: S, matrix: &[f32], p: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for (row, p) in matrix.chunks_exact(out.len().max(1)).zip(p) {
        longreach_simd::math::axpy(s, *p, row, out);
    }
}

/// The transpose of `[rows, columns]`.
#[inline(always)]
pub(super) fn transpose(matrix: &[f32], columns: usize, out: &mut [f32]) {
    let rows = matrix.len() / columns.max(1);
    for (r, row) in matrix.chunks_exact(columns.max(1)).enumerate() {
        for (c, x) in row.iter().enumerate() {
            out[c * rows + r] = *x;
        }
    }
}

/// Rows one behind the other.
#[inline(always)]
pub(super) fn gather<'a>(rows: impl Iterator<Item = &'a [f32]>, out: &mut [f32]) {
    let mut at = 0;
    for row in rows {
        out[at..at + row.len()].copy_from_slice(row);
        at += row.len();
    }
}
