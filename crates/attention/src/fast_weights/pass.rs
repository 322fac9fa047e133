//! A matrix that is written to by outer products and read, token by token, and decayed at cuts: what every mechanism whose state is a matrix
//! does, forwards and backwards.
//!
//! $$ X_t = X_{t-1} + \sum_m u^m_t (y^m_t)^\top, \qquad o^m_t = X_t^\top p^m_t $$
//!
//! or, where a token reads before it writes ([`Before`]), `o_t = X_{t-1}ᵀ p_t`.
//!
//! Lanes run along the columns. A few vectors of them are taken at a time, whose rows stay in the first cache while the tokens of a chunk pass: a cell
//! costs as many operations as the equation has, and is loaded and stored once for two or four tokens, for stores are what a processor has least of. On
//! a CPU, whose matrix products are made of the same operations, the products of a chunked form are no cheaper.

use std::ops::Range;

use longreach_simd::cache::PrefetchQueue;
use longreach_simd::{Isa, Kernel, Lanes, math};

use super::decay::{Along, Cuts};

/// The most vectors of a row that are taken at a time, and as many as there always is room for.
const WIDE: usize = 4;
const HALF: usize = WIDE / 2;
/// Rows of the matrix between two times that memory is asked for something.
const APART: usize = 8;

/// What `W` writes and `P` reads a token do to the matrix.
pub(super) struct Pass<'a, C, const W: usize, const P: usize> {
    pub(super) tokens: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// `[rows, columns]`
    pub(super) matrix: &'a mut [f32],
    /// Whether the last token comes first. Where a token's numbers lie does not depend on it.
    pub(super) back: bool,
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
    pub(super) ask: &'a dyn Ask,
}

/// A pass: so many tokens, rows and columns, and whether the last token comes first.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a pass has so many parts")]
pub(super) fn over<C: Carry<W, P>, const W: usize, const P: usize>(
    isa: Isa,
    (tokens, rows, columns, back): (usize, usize, usize, bool),
    matrix: &mut [f32],
    cuts: Cuts<'_>,
    write: [&[f32]; W],
    written: [&mut [f32]; W],
    read: [&[f32]; P],
    out: [&mut [f32]; P],
    carry: C,
    ask: &dyn Ask,
) {
    isa.run(Pass { tokens, rows, columns, matrix, back, cuts, write, written, read, out, carry, ask });
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
    /// Whether a token reads before it writes. Only where nothing is carried.
    const READS_FIRST: bool = false;

    /// The first of two tokens has been read.
    fn carry<S: Lanes>(&self, s: S, step: Step, written: &mut [&mut [f32]; W], out: &[&mut [f32]; P]);
}

/// What is asked of memory while a token passes: the rows that the next pass will gather lie far apart, and come while this one computes.
pub(super) trait Ask {
    /// The rows that are wanted in return for the `i`th token of this pass.
    fn rows(&self, i: usize, soon: &mut PrefetchQueue);
}

/// Nothing.
pub(super) struct Nothing;

impl Ask for Nothing {
    fn rows(&self, _: usize, _: &mut PrefetchQueue) {}
}

impl<const W: usize, const P: usize> Carry<W, P> for Nothing {
    const CARRIES: bool = false;

    #[inline(always)]
    fn carry<S: Lanes>(&self, _: S, _: Step, _: &mut [&mut [f32]; W], _: &[&mut [f32]; P]) {}
}

/// Nothing is carried, and a token reads the matrix as it was before the token's own writes.
pub(super) struct Before;

impl<const W: usize, const P: usize> Carry<W, P> for Before {
    const CARRIES: bool = false;
    const READS_FIRST: bool = true;

    #[inline(always)]
    fn carry<S: Lanes>(&self, _: S, _: Step, _: &mut [&mut [f32]; W], _: &[&mut [f32]; P]) {}
}

/// Nothing is decayed, or all alike, or each row or column for itself.
const NONE: u8 = 0;
const WHOLE: u8 = 1;
const ROWS: u8 = 2;
const COLUMNS: u8 = 3;

impl<C: Carry<W, P>, const W: usize, const P: usize> Kernel for Pass<'_, C, W, P> {
    type Output = ();
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S) {
        let mut at = 0;
        // One write and one read take four tokens of half as many columns instead; two of each need the registers for two tokens.
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

impl<C: Carry<W, P>, const W: usize, const P: usize> Pass<'_, C, W, P> {
    /// All tokens, the columns from `at` on, `N` vectors of them.
    #[inline(always)]
    fn block<S: Lanes, const N: usize>(&mut self, s: S, at: usize) {
        // As many tokens at a time as there are registers for.
        let together = match W * P {
            1 if !C::CARRIES && S::LANES >= 16 => 4,
            2 if C::READS_FIRST && S::LANES >= 16 => 4,
            4 if S::LANES == 8 => 1,
            _ => 2,
        };
        let (cuts, tokens, back) = (self.cuts, self.tokens, self.back);
        let (mut i, mut n) = (0, 0);
        let mut next = cuts.get(0, tokens, back);
        loop {
            let cut = next.filter(|(place, _)| *place == i);
            if cut.is_some() {
                n += 1;
                next = cuts.get(n, tokens, back);
            }
            let end = next.map_or(tokens, |(place, _)| place);
            if let Some((_, by)) = cut {
                // The decay goes with a token that passes alone.
                let alone = !(end - i).is_multiple_of(together);
                match cuts.along {
                    _ if cuts.whole() => self.cut::<S, WHOLE, N>(s, by, at, i, alone),
                    Along::Rows => self.cut::<S, ROWS, N>(s, by, at, i, alone),
                    Along::Columns => self.cut::<S, COLUMNS, N>(s, by, at, i, alone),
                }
                i += usize::from(alone);
            }
            let last = end - (end - i) % together;
            if last > i {
                match together {
                    1 => {}
                    _ if C::CARRIES => self.pairs::<S, N>(s, at, i..last),
                    4 => self.groups::<S, N, 4>(s, at, i..last),
                    _ => self.groups::<S, N, 2>(s, at, i..last),
                }
            }
            self.some::<S, NONE, N>(s, &[], at, if together > 1 { last } else { i }..end);
            i = end;
            if i == tokens && next.is_none() {
                return;
            }
        }
    }

    /// Where the `i`th token of the pass stands.
    #[inline(always)]
    fn token(&self, i: usize) -> usize {
        if self.back { self.tokens - 1 - i } else { i }
    }

    /// The rows of `G` tokens from the `i`th on.
    #[inline(always)]
    fn rows_of<'r, const N: usize, const G: usize>(&self, rows: &[&'r [f32]; N], i: usize) -> [[&'r [f32]; N]; G] {
        let mut of = [[&[][..]; N]; G];
        for (g, of) in of.iter_mut().enumerate() {
            let t = self.token(i + g);
            for m in 0..N {
                of[m] = &rows[m][t * self.rows..][..self.rows];
            }
        }
        of
    }

    /// Where the columns of `G` tokens from the `i`th on stand.
    #[inline(always)]
    fn columns_of<const G: usize>(&self, i: usize, at: &Range<usize>) -> [Range<usize>; G] {
        std::array::from_fn(
            #[inline(always)]
            |g| {
                let t = self.token(i + g) * self.columns;
                t + at.start..t + at.end
            },
        )
    }

    /// What is asked for while `G` tokens from the `i`th on pass.
    #[inline(always)]
    fn soon<const G: usize>(&self, i: usize, at: usize) -> PrefetchQueue {
        let mut soon = PrefetchQueue::empty();
        for i in (i..i + G).take_while(|_| at == 0) {
            self.ask.rows(i, &mut soon);
        }
        soon
    }

    /// The columns from `at` on, `N` vectors of them, `G` tokens at a time, so that the matrix is loaded and stored once for them. Where nothing is carried.
    #[inline(always)]
    fn groups<S: Lanes, const N: usize, const G: usize>(&mut self, s: S, at: usize, tokens: Range<usize>) {
        let rows = self.rows;
        let end = columns_end::<S, N>(at, self.columns);
        let zero = s.splat(0.0);
        for i in tokens.step_by(G) {
            let soon = self.soon::<G>(i, at);
            let soon = soon.schedule(rows.div_ceil(APART));
            let columns = self.columns_of::<G>(i, &(at..end));
            let (u, p) = (self.rows_of::<W, G>(&self.write, i), self.rows_of::<P, G>(&self.read, i));
            let (mut y, mut sum) = ([[[zero; N]; W]; G], [[[zero; N]; P]; G]);
            for g in 0..G {
                self.written(s, columns[g].clone(), &mut y[g]);
            }
            let mut lines = self.matrix.chunks_exact_mut(self.columns);
            for r in 0..rows {
                let Some(row) = lines.next() else { break };
                if r.is_multiple_of(APART) {
                    soon.issue(r / APART);
                }
                let row = cells::<S, N>(row, at, end - at);
                let mut x = [zero; N];
                load(s, row, &mut x);
                for g in 0..G {
                    if C::READS_FIRST {
                        read(s, &p[g], r, &x, &mut sum[g]);
                    }
                    write(s, &u[g], r, &y[g], &mut x);
                    if !C::READS_FIRST {
                        read(s, &p[g], r, &x, &mut sum[g]);
                    }
                }
                store(s, &x, row);
            }
            for g in 0..G {
                for m in 0..P {
                    store(s, &sum[g][m], &mut self.out[m][columns[g].clone()]);
                }
            }
        }
    }

    /// As [`Pass::groups`], two tokens at a time, where the last read of the first has to be known before the second is written: it is put together of
    /// what the matrix before both gives and what the first writes, `X_aᵀ p = X_{a−1}ᵀ p + Σ (u_a · p) y_a`.
    #[inline(always)]
    fn pairs<S: Lanes, const N: usize>(&mut self, s: S, at: usize, tokens: Range<usize>) {
        let rows = self.rows;
        let end = columns_end::<S, N>(at, self.columns);
        let zero = s.splat(0.0);
        // What the matrix as it is gives to the last read of the token that comes.
        let mut ahead = [zero; N];
        let t = self.token(tokens.start);
        let first = &self.read[P - 1][t * rows..(t + 1) * rows];
        let mut lines = self.matrix.chunks_exact_mut(self.columns);
        for p in first {
            let Some(row) = lines.next() else { break };
            let mut x = [zero; N];
            load(s, cells::<S, N>(row, at, end - at), &mut x);
            let p = s.splat(*p);
            for i in 0..N {
                ahead[i] = s.fma(p, x[i], ahead[i]);
            }
        }
        for i in tokens.clone().step_by(2) {
            let [a, b] = [i, i + 1].map(|i| self.token(i));
            let soon = self.soon::<2>(i, at);
            let soon = soon.schedule(rows.div_ceil(APART));
            let [of_a, of_b] = self.columns_of::<2>(i, &(at..end));
            let (u, p) = (self.rows_of::<W, 2>(&self.write, i), self.rows_of::<P, 2>(&self.read, i));
            let (mut y_a, mut y_b) = ([[zero; N]; W], [[zero; N]; W]);
            self.written(s, of_a.clone(), &mut y_a);
            for m in 0..W {
                let through = s.splat(math::dot(s, u[0][m], p[0][P - 1]));
                for i in 0..N {
                    ahead[i] = s.fma(through, y_a[m][i], ahead[i]);
                }
            }
            store(s, &ahead, &mut self.out[P - 1][of_a.clone()]);
            let step = Step { tokens: [a, b], columns: [of_a.clone(), of_b.clone()] };
            self.carry.carry(s, step, &mut self.written, &self.out);
            self.written(s, of_b.clone(), &mut y_b);
            // The token after the two, if it is the first of two again.
            let c = if i + 2 < tokens.end { self.token(i + 2) } else { b };
            let p_c = &self.read[P - 1][c * rows..][..rows];
            let (mut sum_a, mut sum_b) = ([[zero; N]; P], [[zero; N]; P]);
            ahead = [zero; N];
            let mut lines = self.matrix.chunks_exact_mut(self.columns);
            for r in 0..rows {
                let Some(row) = lines.next() else { break };
                if r.is_multiple_of(APART) {
                    soon.issue(r / APART);
                }
                let row = cells::<S, N>(row, at, end - at);
                let mut x = [zero; N];
                load(s, row, &mut x);
                for m in 0..W {
                    let u = s.splat(u[0][m][r]);
                    for i in 0..N {
                        x[i] = s.fma(u, y_a[m][i], x[i]);
                    }
                }
                for m in 0..P - 1 {
                    let p = s.splat(p[0][m][r]);
                    for i in 0..N {
                        sum_a[m][i] = s.fma(p, x[i], sum_a[m][i]);
                    }
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
                let p = s.splat(p_c[r]);
                for i in 0..N {
                    ahead[i] = s.fma(p, x[i], ahead[i]);
                }
            }
            for m in 0..P {
                if m + 1 < P {
                    store(s, &sum_a[m], &mut self.out[m][of_a.clone()]);
                }
                store(s, &sum_b[m], &mut self.out[m][of_b.clone()]);
            }
            self.carry_on(s, i + 1, at..end);
        }
    }

    /// The decay at a cut, with the `i`th token if that passes alone.
    #[inline(always)]
    fn cut<S: Lanes, const BY: u8, const N: usize>(&mut self, s: S, by: &[f32], at: usize, i: usize, alone: bool) {
        if alone {
            self.some::<S, BY, N>(s, by, at, i..i + 1);
        } else {
            self.decay::<S, BY, N>(s, by, at);
        }
    }

    /// What is left of some columns at a cut.
    #[inline(always)]
    fn decay<S: Lanes, const BY: u8, const N: usize>(&mut self, s: S, by: &[f32], at: usize) {
        let end = columns_end::<S, N>(at, self.columns);
        let mut factor = factors::<S, BY, N>(s, by, at..end);
        let mut lines = self.matrix.chunks_exact_mut(self.columns);
        for r in 0..self.rows {
            let Some(row) = lines.next() else { break };
            if BY == ROWS {
                factor = [s.splat(by[r]); N];
            }
            let row = cells::<S, N>(row, at, end - at);
            let mut x = [s.splat(0.0); N];
            load(s, row, &mut x);
            for i in 0..N {
                x[i] = s.mul(x[i], factor[i]);
            }
            store(s, &x, row);
        }
    }

    /// What is written.
    #[inline(always)]
    fn written<S: Lanes, const N: usize>(&self, s: S, at: Range<usize>, y: &mut [[S::V; N]; W]) {
        for m in 0..W {
            load(s, &self.written[m][at.clone()], &mut y[m]);
        }
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

    /// The columns from `at` on: `N` vectors of them, or what there is of one; decayed first, at every token, unless by [`NONE`].
    #[inline(always)]
    fn some<S: Lanes, const BY: u8, const N: usize>(&mut self, s: S, by: &[f32], at: usize, tokens: Range<usize>) {
        let (rows, columns) = (self.rows, self.columns);
        let end = columns_end::<S, N>(at, columns);
        let zero = s.splat(0.0);
        let mut factor = factors::<S, BY, N>(s, by, at..end);
        for i in tokens {
            let t = self.token(i);
            let mut soon = PrefetchQueue::empty();
            if at == 0 {
                self.ask.rows(i, &mut soon);
            }
            let soon = soon.schedule(rows.div_ceil(APART));
            let here = t * columns + at..t * columns + end;
            let mut y = [[zero; N]; W];
            self.written(s, here.clone(), &mut y);
            let (mut u, mut p) = ([&[][..]; W], [&[][..]; P]);
            for m in 0..W {
                u[m] = &self.write[m][t * rows..(t + 1) * rows];
            }
            for m in 0..P {
                p[m] = &self.read[m][t * rows..(t + 1) * rows];
            }
            let mut sum = [[zero; N]; P];
            let mut lines = self.matrix.chunks_exact_mut(columns);
            for r in 0..rows {
                let Some(row) = lines.next() else { break };
                if r.is_multiple_of(APART) {
                    soon.issue(r / APART);
                }
                let row = cells::<S, N>(row, at, end - at);
                let mut x = [zero; N];
                load(s, row, &mut x);
                if BY == ROWS {
                    factor = [s.splat(by[r]); N];
                }
                for i in 0..N {
                    x[i] = if BY == NONE { x[i] } else { s.mul(x[i], factor[i]) };
                }
                if C::READS_FIRST {
                    read(s, &p, r, &x, &mut sum);
                }
                write(s, &u, r, &y, &mut x);
                store(s, &x, row);
                if !C::READS_FIRST {
                    read(s, &p, r, &x, &mut sum);
                }
            }
            for m in 0..P {
                store(s, &sum[m], &mut self.out[m][here.clone()]);
            }
            self.carry_on(s, i, at..end);
        }
    }
}

/// Where `N` vectors of columns from `at` on end: only a single vector may be there in part.
#[inline(always)]
fn columns_end<S: Lanes, const N: usize>(at: usize, columns: usize) -> usize {
    if N == 1 { (at + S::LANES).min(columns) } else { at + N * S::LANES }
}

/// `N` vectors of a row of the matrix, or what there is of one: a slice of a length that the compiler knows, so that loads and stores are not checked one
/// by one, and the loop over rows stays one block. Rows are taken from `chunks_exact_mut` one by one: zipped with
/// their numbers, each would cost a multiplication.
#[inline(always)]
fn cells<S: Lanes, const N: usize>(row: &mut [f32], from: usize, width: usize) -> &mut [f32] {
    &mut row[from..][..if N == 1 { width } else { N * S::LANES }]
}

/// What a token writes to row `r`.
#[inline(always)]
fn write<S: Lanes, const N: usize, const W: usize>(
    s: S,
    u: &[&[f32]; W],
    r: usize,
    y: &[[S::V; N]; W],
    x: &mut [S::V; N],
) {
    for m in 0..W {
        let u = s.splat(u[m][r]);
        for i in 0..N {
            x[i] = s.fma(u, y[m][i], x[i]);
        }
    }
}

/// What a token reads of row `r`.
#[inline(always)]
fn read<S: Lanes, const N: usize, const P: usize>(
    s: S,
    p: &[&[f32]; P],
    r: usize,
    x: &[S::V; N],
    sum: &mut [[S::V; N]; P],
) {
    for m in 0..P {
        let p = s.splat(p[m][r]);
        for i in 0..N {
            sum[m][i] = s.fma(p, x[i], sum[m][i]);
        }
    }
}

/// What some columns are multiplied with, where that is the same for all rows.
#[inline(always)]
fn factors<S: Lanes, const BY: u8, const N: usize>(s: S, by: &[f32], columns: Range<usize>) -> [S::V; N] {
    let mut factors = [s.splat(if BY == WHOLE { by[0] } else { 1.0 }); N];
    if BY == COLUMNS {
        load(s, &by[columns], &mut factors);
    }
    factors
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
