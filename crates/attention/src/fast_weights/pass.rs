//! A matrix that is decayed, written to by outer products and read, token by token: what every mechanism whose state is a matrix does,
//! forwards and backwards.
//!
//! $$ X_t = \gamma_t \odot X_{t-1} + \sum_m u^m_t (y^m_t)^\top, \qquad o^m_t = X_t^\top p^m_t $$
//!
//! Lanes run along the columns. So many columns are taken at a time that all rows of them stay in the first cache while the tokens of a chunk
//! pass: a cell costs as many operations as the equation has, and is loaded and stored once a token, or once for two where registers are enough. On a CPU, whose matrix products are
//! made of the same operations, the products of a chunked form are no cheaper.

use std::ops::Range;

use longreach_simd::cache::Soon;
use longreach_simd::{Kernel, Lanes, math};

/// Vectors of a row that are taken at a time.
const WIDE: usize = 4;
/// The least that may be left of a matrix before its decay is taken into it.
const LEAST: f32 = 1e-13;

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
pub(super) struct Pass<'a, C, const W: usize, const P: usize> {
    pub(super) tokens: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// `[rows, columns]`
    pub(super) matrix: &'a mut [f32],
    /// Whether the last token comes first. Where a token's numbers lie does not depend on it.
    pub(super) back: bool,
    pub(super) decay: Decay<'a>,
    /// `u: [tokens, rows]`
    pub(super) write: [&'a [f32]; W],
    /// `y: [tokens, columns]`
    pub(super) written: [&'a mut [f32]; W],
    /// `p: [tokens, rows]`
    pub(super) read: [&'a [f32]; P],
    /// `o: [tokens, columns]`
    pub(super) out: [&'a mut [f32]; P],
    pub(super) carry: C,
    pub(super) ask: &'a dyn Ask,
}

/// Some columns of a token and of the one that comes after it.
pub(super) struct Step {
    /// Where the tokens stand.
    pub(super) tokens: [usize; 2],
    /// Where their columns stand.
    pub(super) columns: [Range<usize>; 2],
}

/// What a token's reads change of what the next one writes.
pub(super) trait Carry<const W: usize, const P: usize> {
    /// Whether anything is: the last read then has to be known before the next token is written.
    const CARRIES: bool = true;

    /// The first of two tokens has been read.
    fn carry<S: Lanes>(&self, s: S, step: Step, written: &mut [&mut [f32]; W], out: &[&mut [f32]; P]);
}

/// What is asked of memory while a token passes: the rows that the next pass will gather lie far apart, and come while this one computes.
pub(super) trait Ask {
    /// The rows that are wanted in return for the `i`th token of this pass.
    fn rows(&self, i: usize, soon: &mut Soon);
}

/// Nothing.
pub(super) struct Nothing;

impl Ask for Nothing {
    fn rows(&self, _: usize, _: &mut Soon) {}
}

impl<const W: usize, const P: usize> Carry<W, P> for Nothing {
    const CARRIES: bool = false;

    #[inline(always)]
    fn carry<S: Lanes>(&self, _: S, _: Step, _: &mut [&mut [f32]; W], _: &[&mut [f32]; P]) {}
}

/// From so many tokens on it is cheaper to decay the matrix once for all.
const FEW: usize = 4;

const TOKEN: u8 = 0;
const ROWS: u8 = 1;
const COLUMNS: u8 = 2;

impl<C: Carry<W, P>, const W: usize, const P: usize> Kernel for Pass<'_, C, W, P> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        match self.decay {
            Decay::Token(by) => self.all::<S, TOKEN>(s, by),
            Decay::Rows(by) => self.all::<S, ROWS>(s, by),
            Decay::Columns(by) => self.all::<S, COLUMNS>(s, by),
        }
    }
}

impl<C: Carry<W, P>, const W: usize, const P: usize> Pass<'_, C, W, P> {
    #[inline(always)]
    fn all<S: Lanes, const BY: u8>(&mut self, s: S, by: &[f32]) {
        // Two tokens at a time need some thirty registers.
        let paired = S::LANES >= 16 && W * P < 4;
        let mut at = 0;
        while at + WIDE * S::LANES <= self.columns {
            let mut i = 0;
            while i < self.tokens {
                let run = self.run_of::<BY>(by, i);
                let (two, once) = (paired && run >= 2, BY == TOKEN && run >= FEW);
                let end = i + if two { run / 2 * 2 } else { run.max(1) };
                if two {
                    self.pairs::<S, BY, WIDE>(s, by, at, i..end);
                } else if once {
                    self.some::<S, BY, true, WIDE>(s, by, at, i..end);
                } else {
                    self.some::<S, BY, false, WIDE>(s, by, at, i..end);
                }
                i = end;
            }
            at += WIDE * S::LANES;
        }
        while at < self.columns {
            self.some::<S, BY, false, 1>(s, by, at, 0..self.tokens);
            at += S::LANES;
        }
    }

    /// Where the `i`th token of the pass stands.
    #[inline(always)]
    fn token(&self, i: usize) -> usize {
        if self.back { self.tokens - 1 - i } else { i }
    }

    /// How many tokens from the `i`th on leave enough of the matrix for it to be decayed once for all of them; all where each row or column decays
    /// for itself.
    #[inline(always)]
    fn run_of<const BY: u8>(&self, by: &[f32], i: usize) -> usize {
        if BY != TOKEN {
            return self.tokens - i;
        }
        let (mut left, mut end) = (1.0, i);
        while end < self.tokens {
            left *= by[self.token(end)];
            if left.is_nan() || left < LEAST {
                break;
            }
            end += 1;
        }
        end - i
    }

    /// The columns from `at` on, `N` vectors of them, an even number of tokens two at a time, so that the matrix is loaded and stored once for both.
    /// What the first of two reads for the second to be written is put together of what the matrix before both gives and what the first
    /// writes: `S_aᵀ p = S_{a−1}ᵀ (γ_a ⊙ p) + Σ (u_a · p) y_a`. With one factor a token the matrix itself is not decayed but once, at the end: what is
    /// written is divided, and what is read multiplied, by the product `left` of the factors so far.
    #[inline(always)]
    fn pairs<S: Lanes, const BY: u8, const N: usize>(&mut self, s: S, by: &[f32], at: usize, tokens: Range<usize>) {
        let (rows, columns) = (self.rows, self.columns);
        let end = at + N * S::LANES;
        let zero = s.splat(0.0);
        // What the matrix as it is gives to the last read of the token that comes; its decay over rows is in it already.
        let mut ahead = [zero; N];
        if C::CARRIES {
            let t = self.token(tokens.start);
            let p = &self.read[P - 1][t * rows..(t + 1) * rows];
            let by = if BY == ROWS { &by[t * rows..(t + 1) * rows] } else { &[][..] };
            for (r, row) in self.matrix.chunks_exact(columns).enumerate() {
                let p = s.splat(if BY == ROWS { by[r] * p[r] } else { p[r] });
                for (i, ahead) in ahead.iter_mut().enumerate() {
                    *ahead = s.fma(p, s.load(&row[at + i * S::LANES..]), *ahead);
                }
            }
        }
        let mut left = 1.0;
        for i in tokens.clone().step_by(2) {
            let [a, b] = [i, i + 1].map(|i| self.token(i));
            let mut soon = Soon::none();
            if at == 0 {
                self.ask.rows(i, &mut soon);
                self.ask.rows(i + 1, &mut soon);
            }
            let soon = soon.ready(rows);
            let of_a = a * columns + at..a * columns + end;
            let of_b = b * columns + at..b * columns + end;
            let (mut by_a, mut by_b) = ([zero; N], [zero; N]);
            if BY == COLUMNS {
                load(s, &by[of_a.clone()], &mut by_a);
                load(s, &by[of_b.clone()], &mut by_b);
            }
            let left_a = if BY == TOKEN { left * by[a] } else { 1.0 };
            let left_b = if BY == TOKEN { left_a * by[b] } else { 1.0 };
            left = left_b;
            let mut y_a = [[zero; N]; W];
            self.written(s, of_a.clone(), left_a, &mut y_a);
            let mut u = [[&[][..]; W]; 2];
            let mut p = [[&[][..]; P]; 2];
            for n in 0..2 {
                let t = [a, b][n];
                for m in 0..W {
                    u[n][m] = &self.write[m][t * rows..(t + 1) * rows];
                }
                for m in 0..P {
                    p[n][m] = &self.read[m][t * rows..(t + 1) * rows];
                }
            }
            if C::CARRIES {
                for i in 0..N {
                    ahead[i] = if BY == COLUMNS { s.mul(ahead[i], by_a[i]) } else { ahead[i] };
                }
                for m in 0..W {
                    let through = s.splat(math::dot(s, u[0][m], p[0][P - 1]));
                    for i in 0..N {
                        ahead[i] = s.fma(through, y_a[m][i], ahead[i]);
                    }
                }
                self.found(s, P - 1, of_a.clone(), left_a, &ahead);
                let step = Step { tokens: [a, b], columns: [of_a.clone(), of_b.clone()] };
                self.carry.carry(s, step, &mut self.written, &self.out);
            }
            let mut y_b = [[zero; N]; W];
            self.written(s, of_b.clone(), left_b, &mut y_b);
            // The token after the two, if it is the first of two again.
            let goes_on = C::CARRIES && i + 2 < tokens.end;
            let c = if goes_on { self.token(i + 2) } else { b };
            let p_c = if P > 0 { &self.read[P - 1][c * rows..(c + 1) * rows] } else { &[][..] };
            let (mut rows_a, mut rows_b, mut rows_c) = (&[][..], &[][..], &[][..]);
            if BY == ROWS {
                rows_a = &by[a * rows..(a + 1) * rows];
                rows_b = &by[b * rows..(b + 1) * rows];
                rows_c = &by[c * rows..(c + 1) * rows];
            }
            let own = if C::CARRIES { P - 1 } else { P };
            let (mut sum_a, mut sum_b) = ([[zero; N]; P], [[zero; N]; P]);
            ahead = [zero; N];
            for (r, row) in self.matrix.chunks_exact_mut(columns).enumerate() {
                soon.ask(r);
                let row = &mut row[at..end];
                let mut x = [zero; N];
                load(s, row, &mut x);
                if BY == ROWS {
                    by_a = [s.splat(rows_a[r]); N];
                    by_b = [s.splat(rows_b[r]); N];
                }
                for i in 0..N {
                    x[i] = if BY == TOKEN { x[i] } else { s.mul(x[i], by_a[i]) };
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
                for i in 0..N {
                    x[i] = if BY == TOKEN { x[i] } else { s.mul(x[i], by_b[i]) };
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
            for m in 0..P {
                if m < own {
                    self.found(s, m, of_a.clone(), left_a, &sum_a[m]);
                }
                self.found(s, m, of_b.clone(), left_b, &sum_b[m]);
            }
            self.carry_on(s, i + 1, at..end);
        }
        self.decay_once(s, left, at..end);
    }

    /// What is left of some columns, if not all.
    #[inline(always)]
    fn decay_once<S: Lanes>(&mut self, s: S, left: f32, at: Range<usize>) {
        if left == 1.0 {
            return;
        }
        let left = s.splat(left);
        for row in self.matrix.chunks_exact_mut(self.columns) {
            for x in row[at.clone()].chunks_exact_mut(S::LANES) {
                s.store(x, s.mul(left, s.load(x)));
            }
        }
    }

    /// What is written, in units of what is left.
    #[inline(always)]
    fn written<S: Lanes, const N: usize>(&self, s: S, at: Range<usize>, left: f32, y: &mut [[S::V; N]; W]) {
        for m in 0..W {
            load(s, &self.written[m][at.clone()], &mut y[m]);
            if left != 1.0 {
                let grown = s.splat(1.0 / left);
                for y in &mut y[m] {
                    *y = s.mul(grown, *y);
                }
            }
        }
    }

    /// What was read, in units of what is left.
    #[inline(always)]
    fn found<S: Lanes, const N: usize>(&mut self, s: S, m: usize, at: Range<usize>, left: f32, sum: &[S::V; N]) {
        let mut sum = *sum;
        if left != 1.0 {
            for sum in &mut sum {
                *sum = s.mul(s.splat(left), *sum);
            }
        }
        store(s, &sum, &mut self.out[m][at]);
    }

    /// The `i`th token has been read: what comes of it for the one after it, if there is one.
    #[inline(always)]
    fn carry_on<S: Lanes>(&mut self, s: S, i: usize, at: Range<usize>) {
        if C::CARRIES && i + 1 < self.tokens {
            let tokens = [i, i + 1].map(|i| self.token(i));
            let columns = tokens.map(|t| t * self.columns + at.start..t * self.columns + at.end);
            self.carry.carry(s, Step { tokens, columns }, &mut self.written, &self.out);
        }
    }

    /// The columns from `at` on: `N` vectors of them, or what there is of one. With `ONCE`, as [`Pass::pairs`], the matrix is decayed at the end.
    #[inline(always)]
    fn some<S: Lanes, const BY: u8, const ONCE: bool, const N: usize>(
        &mut self,
        s: S,
        by: &[f32],
        at: usize,
        tokens: Range<usize>,
    ) {
        let (rows, columns) = (self.rows, self.columns);
        let end = (at + N * S::LANES).min(columns);
        let zero = s.splat(0.0);
        let mut left = 1.0;
        for i in tokens {
            let t = self.token(i);
            left = if ONCE { left * by[t] } else { 1.0 };
            let mut soon = Soon::none();
            if at == 0 {
                self.ask.rows(i, &mut soon);
            }
            let soon = soon.ready(rows);
            let here = t * columns + at..t * columns + end;
            let mut y = [[zero; N]; W];
            self.written(s, here.clone(), left, &mut y);
            let mut factor = [s.splat(if BY == TOKEN { by[t] } else { 1.0 }); N];
            if BY == COLUMNS {
                load(s, &by[here.clone()], &mut factor);
            }
            let (mut u, mut p) = ([&[][..]; W], [&[][..]; P]);
            for m in 0..W {
                u[m] = &self.write[m][t * rows..(t + 1) * rows];
            }
            for m in 0..P {
                p[m] = &self.read[m][t * rows..(t + 1) * rows];
            }
            let by_row = if BY == ROWS { &by[t * rows..(t + 1) * rows] } else { &[][..] };
            let mut sum = [[zero; N]; P];
            for (r, row) in self.matrix.chunks_exact_mut(columns).enumerate() {
                soon.ask(r);
                let row = &mut row[at..end];
                let mut x = [zero; N];
                load(s, row, &mut x);
                if BY == ROWS {
                    factor = [s.splat(by_row[r]); N];
                }
                for i in 0..N {
                    x[i] = if ONCE { x[i] } else { s.mul(x[i], factor[i]) };
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
            for m in 0..P {
                self.found(s, m, here.clone(), left, &sum[m]);
            }
            self.carry_on(s, i, at..end);
        }
        self.decay_once(s, left, at..end);
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
    let columns = out.len();
    let mut at = 0;
    while at + WIDE * S::LANES <= columns {
        let mut sum = [s.splat(0.0); WIDE];
        for (row, p) in matrix.chunks_exact(columns).zip(p) {
            let p = s.splat(*p);
            for (i, sum) in sum.iter_mut().enumerate() {
                *sum = s.fma(p, s.load(&row[at + i * S::LANES..]), *sum);
            }
        }
        store(s, &sum, &mut out[at..]);
        at += WIDE * S::LANES;
    }
    while at < columns {
        let end = (at + S::LANES).min(columns);
        let mut sum = s.splat(0.0);
        for (row, p) in matrix.chunks_exact(columns).zip(p) {
            sum = s.fma(s.splat(*p), s.load_part(&row[at..end]), sum);
        }
        s.store_part(&mut out[at..end], sum);
        at = end;
    }
}

/// The transpose of `[rows, columns]`.
#[inline(always)]
pub(super) fn transpose<S: Lanes>(s: S, matrix: &[f32], columns: usize, out: &mut [f32]) {
    let (rows, n) = (matrix.len() / columns.max(1), S::LANES);
    // What there is of whole tiles; and the rest, one by one.
    let (tall, wide) = (rows / n * n, columns / n * n);
    let mut tile = [s.splat(0.0); 16];
    for r in (0..tall).step_by(n) {
        for c in (0..wide).step_by(n) {
            for (i, row) in tile[..n].iter_mut().enumerate() {
                *row = s.load(&matrix[(r + i) * columns + c..]);
            }
            s.transpose(&tile[..n], &mut out[c * rows + r..], rows);
        }
    }
    for r in 0..rows {
        for c in if r < tall { wide } else { 0 }..columns {
            out[c * rows + r] = matrix[r * columns + c];
        }
    }
}
