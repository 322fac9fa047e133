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
use longreach_simd::cache::Soon;

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
    /// Whether anything is: the last read then has to be known before the next token is written.
    const CARRIES: bool = true;

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

/// What is asked of memory while a token passes: the rows that the next pass will gather lie far apart, and come while this one computes.
pub(super) trait Ask {
    /// The rows that are wanted in return for token `t` of this pass.
    fn rows(&self, t: usize, soon: &mut Soon);
}

/// Nothing.
pub(super) struct Nothing;

impl Ask for Nothing {
    #[inline(always)]
    fn rows(&self, _: usize, _: &mut Soon) {}
}

impl<const W: usize, const P: usize> Carry<W, P> for Nothing {
    const CARRIES: bool = false;

    #[inline(always)]
    fn carry<S: Lanes>(&self, _: S, _: usize, _: [Range<usize>; 2], _: &mut [&mut [f32]; W], _: &[&mut [f32]; P]) {}
}

const TOKEN: u8 = 0;
const ROWS: u8 = 1;
const COLUMNS: u8 = 2;

impl<const W: usize, const P: usize> Pass<'_, W, P> {
    /// Takes `matrix: [rows, columns]` through the tokens.
    #[inline(always)]
    pub(super) fn run<S: Lanes, C: Carry<W, P>>(mut self, s: S, matrix: &mut [f32], carry: &C, ask: &impl Ask) {
        match self.decay {
            Decay::Token(by) => self.all::<S, C, TOKEN>(s, by, matrix, carry, ask),
            Decay::Rows(by) => self.all::<S, C, ROWS>(s, by, matrix, carry, ask),
            Decay::Columns(by) => self.all::<S, C, COLUMNS>(s, by, matrix, carry, ask),
        }
    }

    #[inline(always)]
    fn all<S: Lanes, C: Carry<W, P>, const BY: u8>(
        &mut self,
        s: S,
        by: &[f32],
        matrix: &mut [f32],
        carry: &C,
        ask: &impl Ask,
    ) {
        let mut at = 0;
        while at + WIDE * S::LANES <= self.columns {
            // Two tokens at a time need some thirty registers.
            let paired = if S::LANES >= 16 && W * P < 4 {
                self.pairs::<S, C, BY, WIDE>(s, by, matrix, at, carry, ask)
            } else {
                0
            };
            self.some::<S, C, BY, WIDE>(s, by, matrix, at, paired, carry, ask);
            at += WIDE * S::LANES;
        }
        while at < self.columns {
            self.some::<S, C, BY, 1>(s, by, matrix, at, 0, carry, ask);
            at += S::LANES;
        }
    }

    /// The columns from `at` on, `N` vectors of them, two tokens at a time, so that the matrix is loaded and stored once for both → how many tokens
    /// that were. What the first of two reads for the second to be written is put together of what the matrix before both gives and what the first
    /// writes: `S_aᵀ p = S_{a−1}ᵀ (γ_a ⊙ p) + Σ (u_a · p) y_a`.
    #[inline(always)]
    fn pairs<S: Lanes, C: Carry<W, P>, const BY: u8, const N: usize>(
        &mut self,
        s: S,
        by: &[f32],
        matrix: &mut [f32],
        at: usize,
        carry: &C,
        ask: &impl Ask,
    ) -> usize {
        let (rows, columns) = (self.rows, self.columns);
        let end = at + N * S::LANES;
        let zero = s.splat(0.0);
        let pairs = self.tokens / 2;
        // What the matrix as it is gives to the last read of the token that comes; its decay over rows is in it already.
        let mut ahead = [zero; N];
        if C::CARRIES && pairs > 0 {
            let p = &self.read[P - 1][..rows];
            for (r, row) in matrix.chunks_exact(columns).enumerate() {
                let p = s.splat(if BY == ROWS { by[r] * p[r] } else { p[r] });
                for (i, ahead) in ahead.iter_mut().enumerate() {
                    *ahead = s.fma(p, s.load(&row[at + i * S::LANES..]), *ahead);
                }
            }
        }
        for a in (0..pairs).map(|pair| 2 * pair) {
            let b = a + 1;
            let mut soon = Soon::none();
            if at == 0 {
                ask.rows(a, &mut soon);
                ask.rows(b, &mut soon);
            }
            let here = a * columns + at..a * columns + end;
            let next = b * columns + at..b * columns + end;
            let factors = |t: usize| {
                let mut factor = [s.splat(if BY == TOKEN { by[t] } else { 1.0 }); N];
                if BY == COLUMNS {
                    load(s, &by[t * columns + at..t * columns + end], &mut factor);
                }
                factor
            };
            let [mut by_a, mut by_b] = [factors(a), factors(b)];
            let mut y_a = [[zero; N]; W];
            for (y, written) in y_a.iter_mut().zip(&self.written) {
                load(s, &written[here.clone()], y);
            }
            let mut u = [[&[][..]; W]; 2];
            let mut p = [[&[][..]; P]; 2];
            for (t, (u, p)) in [a, b].into_iter().zip(u.iter_mut().zip(&mut p)) {
                for (u, write) in u.iter_mut().zip(&self.write) {
                    *u = &write[t * rows..(t + 1) * rows];
                }
                for (p, read) in p.iter_mut().zip(&self.read) {
                    *p = &read[t * rows..(t + 1) * rows];
                }
            }
            if C::CARRIES {
                for i in 0..N {
                    ahead[i] = if BY == ROWS { ahead[i] } else { s.mul(ahead[i], by_a[i]) };
                }
                for m in 0..W {
                    let through = s.splat(longreach_simd::math::dot(s, u[0][m], p[0][P - 1]));
                    for i in 0..N {
                        ahead[i] = s.fma(through, y_a[m][i], ahead[i]);
                    }
                }
                store(s, &ahead, &mut self.out[P - 1][here.clone()]);
                carry.carry(s, a, [here.clone(), next.clone()], &mut self.written, &self.out);
            }
            let mut y_b = [[zero; N]; W];
            for (y, written) in y_b.iter_mut().zip(&self.written) {
                load(s, &written[next.clone()], y);
            }
            // The token after the two, if it is the first of two again.
            let c = b + 1;
            let goes_on = C::CARRIES && c + 1 < self.tokens;
            let p_c = if goes_on { &self.read[P - 1][c * rows..(c + 1) * rows] } else { p[1][P - 1] };
            let rows_by = |t: usize| if BY == ROWS { &by[t * rows..(t + 1) * rows] } else { &[][..] };
            let (rows_a, rows_b) = (rows_by(a), rows_by(b));
            let rows_c = if goes_on { rows_by(c) } else { rows_b };
            let own = if C::CARRIES { P - 1 } else { P };
            let (mut sum_a, mut sum_b) = ([[zero; N]; P], [[zero; N]; P]);
            ahead = [zero; N];
            for (r, row) in matrix.chunks_exact_mut(columns).enumerate() {
                soon.ask();
                let row = &mut row[at..end];
                let mut x = [zero; N];
                load(s, row, &mut x);
                if BY == ROWS {
                    by_a = [s.splat(rows_a[r]); N];
                }
                for i in 0..N {
                    x[i] = s.mul(x[i], by_a[i]);
                }
                for m in 0..W {
                    let u = s.splat(u[0][m][r]);
                    for i in 0..N {
                        x[i] = s.fma(u, y_a[m][i], x[i]);
                    }
                }
                for m in 0..own {
                    let p = s.splat(p[0][m][r]);
                    for i in 0..N {
                        sum_a[m][i] = s.fma(p, x[i], sum_a[m][i]);
                    }
                }
                if BY == ROWS {
                    by_b = [s.splat(rows_b[r]); N];
                }
                for i in 0..N {
                    x[i] = s.mul(x[i], by_b[i]);
                }
                for m in 0..W {
                    let u = s.splat(u[1][m][r]);
                    for i in 0..N {
                        x[i] = s.fma(u, y_b[m][i], x[i]);
                    }
                }
                store(s, &x, row);
                for m in 0..P {
                    let p = s.splat(p[1][m][r]);
                    for i in 0..N {
                        sum_b[m][i] = s.fma(p, x[i], sum_b[m][i]);
                    }
                }
                if C::CARRIES {
                    let p = s.splat(if BY == ROWS { rows_c[r] * p_c[r] } else { p_c[r] });
                    for i in 0..N {
                        ahead[i] = s.fma(p, x[i], ahead[i]);
                    }
                }
            }
            for (m, out) in self.out.iter_mut().enumerate() {
                if m < own {
                    store(s, &sum_a[m], &mut out[here.clone()]);
                }
                store(s, &sum_b[m], &mut out[next.clone()]);
            }
            if c < self.tokens {
                let after = c * columns + at..c * columns + end;
                carry.carry(s, b, [next, after], &mut self.written, &self.out);
            }
        }
        2 * pairs
    }

    /// The columns from `at` on and the tokens from `from` on: `N` vectors of them, or what there is of one.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "one place calls it")]
    fn some<S: Lanes, C: Carry<W, P>, const BY: u8, const N: usize>(
        &mut self,
        s: S,
        by: &[f32],
        matrix: &mut [f32],
        at: usize,
        from: usize,
        carry: &C,
        ask: &impl Ask,
    ) {
        let (rows, columns) = (self.rows, self.columns);
        let end = (at + N * S::LANES).min(columns);
        let zero = s.splat(0.0);
        for t in from..self.tokens {
            let mut soon = Soon::none();
            if at == 0 {
                ask.rows(t, &mut soon);
            }
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
                soon.ask();
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
