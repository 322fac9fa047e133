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

use std::ops::Range;

use longreach_simd::cache::PrefetchQueue;
use longreach_simd::{Isa, Kernel, Lanes, math};

use super::decay::{Cuts, DecayAxis};

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

/// A token and the next one in the order of the pass, for a block of columns.
pub(super) struct Step {
    /// The indices of the two tokens.
    pub(super) tokens: [usize; 2],
    /// The columns of each, as a range of `[tokens, columns]`.
    pub(super) columns: [Range<usize>; 2],
}

/// How the reads of a token change the writes of the next.
pub(super) trait Carry<const W: usize, const P: usize> {
    /// Whether they do: the last read must then be complete before the next token is written.
    const CARRIES: bool = true;
    /// Whether tokens read before they write. Only without a carry.
    const READS_FIRST: bool = false;

    /// Called when the first of the two tokens has been read.
    fn carry<S: Lanes>(&self, s: S, step: Step, written: &mut [&mut [f32]; W], out: &[&mut [f32]; P]);
}

/// The rows to prefetch during a pass: the rows that the next pass gathers are strided, and are loaded while this pass
/// computes.
pub(super) trait Prefetch {
    /// Queues the rows to prefetch during the `i`th token of this pass.
    fn queue_rows(&self, i: usize, queue: &mut PrefetchQueue);
}

/// A pass that prefetches nothing.
pub(super) struct NoPrefetch;

impl Prefetch for NoPrefetch {
    fn queue_rows(&self, _: usize, _: &mut PrefetchQueue) {}
}

/// No carry: the reads and writes of all tokens are independent.
pub(super) struct Independent;

impl<const W: usize, const P: usize> Carry<W, P> for Independent {
    const CARRIES: bool = false;

    #[inline(always)]
    fn carry<S: Lanes>(&self, _: S, _: Step, _: &mut [&mut [f32]; W], _: &[&mut [f32]; P]) {}
}

/// No carry, and tokens read the matrix before their own writes.
pub(super) struct ReadFirst;

impl<const W: usize, const P: usize> Carry<W, P> for ReadFirst {
    const CARRIES: bool = false;
    const READS_FIRST: bool = true;

    #[inline(always)]
    fn carry<S: Lanes>(&self, _: S, _: Step, _: &mut [&mut [f32]; W], _: &[&mut [f32]; P]) {}
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

impl<C: Carry<W, P>, const W: usize, const P: usize> Pass<'_, C, W, P> {
    /// Processes all tokens for `N` vectors of columns from `at` on.
    #[inline(always)]
    fn block<S: Lanes, const N: usize>(&mut self, s: S, at: usize) {
        // The number of tokens per load of a row, which is bounded by the registers.
        let group = match W * P {
            1 if !C::CARRIES && S::LANES >= 16 => 4,
            2 if C::READS_FIRST && S::LANES >= 16 => 4,
            4 if S::LANES == 8 => 1,
            _ => 2,
        };
        let (cuts, tokens, reverse) = (self.cuts, self.tokens, self.reverse);
        let (mut i, mut n) = (0, 0);
        let mut next = cuts.get(0, tokens, reverse);
        loop {
            let cut = next.filter(|(place, _)| *place == i);
            if cut.is_some() {
                n += 1;
                next = cuts.get(n, tokens, reverse);
            }
            let end = next.map_or(tokens, |(place, _)| place);
            if let Some((_, by)) = cut {
                // If the tokens of the run are not a multiple of the group, the first is processed alone, along with
                // the decay.
                let alone = !(end - i).is_multiple_of(group);
                match cuts.axis {
                    _ if cuts.is_scalar() => self.cut::<S, WHOLE, N>(s, by, at, i, alone),
                    DecayAxis::Rows => self.cut::<S, ROWS, N>(s, by, at, i, alone),
                    DecayAxis::Columns => self.cut::<S, COLUMNS, N>(s, by, at, i, alone),
                }
                i += usize::from(alone);
            }
            let last = end - (end - i) % group;
            if last > i {
                match group {
                    1 => {}
                    _ if C::CARRIES => self.pairs::<S, N>(s, at, i..last),
                    4 => self.groups::<S, N, 4>(s, at, i..last),
                    _ => self.groups::<S, N, 2>(s, at, i..last),
                }
            }
            self.singles::<S, NONE, N>(s, &[], at, if group > 1 { last } else { i }..end);
            i = end;
            if i == tokens && next.is_none() {
                return;
            }
        }
    }

    /// The index of the `i`th token of the pass.
    #[inline(always)]
    fn token(&self, i: usize) -> usize {
        if self.reverse { self.tokens - 1 - i } else { i }
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

    /// The columns `at` of `G` tokens from the `i`th on, as ranges of `[tokens, columns]`.
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

    /// The rows to prefetch during `G` tokens from the `i`th on.
    #[inline(always)]
    fn queue<const G: usize>(&self, i: usize, at: usize) -> PrefetchQueue {
        let mut queue = PrefetchQueue::empty();
        for i in (i..i + G).take_while(|_| at == 0) {
            self.prefetch.queue_rows(i, &mut queue);
        }
        queue
    }

    /// Processes `N` vectors of columns from `at` on, `G` tokens for each load and store of the matrix. Only without a
    /// carry.
    #[inline(always)]
    fn groups<S: Lanes, const N: usize, const G: usize>(&mut self, s: S, at: usize, tokens: Range<usize>) {
        let rows = self.rows;
        let end = columns_end::<S, N>(at, self.columns);
        let zero = s.splat(0.0);
        for i in tokens.step_by(G) {
            let queue = self.queue::<G>(i, at);
            let schedule = queue.schedule(rows.div_ceil(ROWS_PER_PREFETCH));
            let columns = self.columns_of::<G>(i, &(at..end));
            let (u, p) = (self.rows_of::<W, G>(&self.write, i), self.rows_of::<P, G>(&self.read, i));
            let (mut y, mut sum) = ([[[zero; N]; W]; G], [[[zero; N]; P]; G]);
            for g in 0..G {
                self.load_written(s, columns[g].clone(), &mut y[g]);
            }
            let mut lines = self.matrix.chunks_exact_mut(self.columns);
            for r in 0..rows {
                let Some(row) = lines.next() else { break };
                if r.is_multiple_of(ROWS_PER_PREFETCH) {
                    schedule.issue(r / ROWS_PER_PREFETCH);
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

    /// As [`Pass::groups`] with two tokens, where the last read of the first changes the second's write. That read is
    /// assembled from the matrix before both tokens and the first one's writes,
    /// `X_aᵀ p = X_{a−1}ᵀ p + Σ (u_a · p) y_a`.
    #[inline(always)]
    fn pairs<S: Lanes, const N: usize>(&mut self, s: S, at: usize, tokens: Range<usize>) {
        let rows = self.rows;
        let end = columns_end::<S, N>(at, self.columns);
        let zero = s.splat(0.0);
        // The last read of the coming token, from the matrix as it is now.
        let mut next_read = [zero; N];
        let t = self.token(tokens.start);
        let first = &self.read[P - 1][t * rows..(t + 1) * rows];
        let mut lines = self.matrix.chunks_exact_mut(self.columns);
        for p in first {
            let Some(row) = lines.next() else { break };
            let mut x = [zero; N];
            load(s, cells::<S, N>(row, at, end - at), &mut x);
            let p = s.splat(*p);
            for i in 0..N {
                next_read[i] = s.fma(p, x[i], next_read[i]);
            }
        }
        for i in tokens.clone().step_by(2) {
            let [a, b] = [i, i + 1].map(|i| self.token(i));
            let queue = self.queue::<2>(i, at);
            let schedule = queue.schedule(rows.div_ceil(ROWS_PER_PREFETCH));
            let [of_a, of_b] = self.columns_of::<2>(i, &(at..end));
            let (u, p) = (self.rows_of::<W, 2>(&self.write, i), self.rows_of::<P, 2>(&self.read, i));
            let (mut y_a, mut y_b) = ([[zero; N]; W], [[zero; N]; W]);
            self.load_written(s, of_a.clone(), &mut y_a);
            for m in 0..W {
                let dot = s.splat(math::dot(s, u[0][m], p[0][P - 1]));
                for i in 0..N {
                    next_read[i] = s.fma(dot, y_a[m][i], next_read[i]);
                }
            }
            store(s, &next_read, &mut self.out[P - 1][of_a.clone()]);
            let step = Step { tokens: [a, b], columns: [of_a.clone(), of_b.clone()] };
            self.carry.carry(s, step, &mut self.written, &self.out);
            self.load_written(s, of_b.clone(), &mut y_b);
            // The first token of the next pair; unused if there is none.
            let c = if i + 2 < tokens.end { self.token(i + 2) } else { b };
            let p_c = &self.read[P - 1][c * rows..][..rows];
            let (mut sum_a, mut sum_b) = ([[zero; N]; P], [[zero; N]; P]);
            next_read = [zero; N];
            let mut lines = self.matrix.chunks_exact_mut(self.columns);
            for r in 0..rows {
                let Some(row) = lines.next() else { break };
                if r.is_multiple_of(ROWS_PER_PREFETCH) {
                    schedule.issue(r / ROWS_PER_PREFETCH);
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
                    next_read[i] = s.fma(p, x[i], next_read[i]);
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

    /// Applies the decay at a cut, along with the `i`th token if it is processed `alone`.
    #[inline(always)]
    fn cut<S: Lanes, const BY: u8, const N: usize>(&mut self, s: S, by: &[f32], at: usize, i: usize, alone: bool) {
        if alone {
            self.singles::<S, BY, N>(s, by, at, i..i + 1);
        } else {
            self.decay::<S, BY, N>(s, by, at);
        }
    }

    /// Applies the decay at a cut to the matrix alone.
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

    /// Loads the vectors that a token writes.
    #[inline(always)]
    fn load_written<S: Lanes, const N: usize>(&self, s: S, at: Range<usize>, y: &mut [[S::V; N]; W]) {
        for m in 0..W {
            load(s, &self.written[m][at.clone()], &mut y[m]);
        }
    }

    /// Applies the carry of the `i`th token to the next one, if there is one.
    #[inline(always)]
    fn carry_on<S: Lanes>(&mut self, s: S, i: usize, at: Range<usize>) {
        if C::CARRIES && i + 1 < self.tokens {
            let tokens = [i, i + 1].map(|i| self.token(i));
            let columns = tokens.map(|t| t * self.columns + at.start..t * self.columns + at.end);
            self.carry.carry(s, Step { tokens, columns }, &mut self.written, &self.out);
        }
    }

    /// Processes tokens one at a time, for `N` vectors of columns from `at` on, the only one of which may be partial.
    /// Unless `BY` is [`NONE`], each token decays the matrix first.
    #[inline(always)]
    fn singles<S: Lanes, const BY: u8, const N: usize>(&mut self, s: S, by: &[f32], at: usize, tokens: Range<usize>) {
        let (rows, columns) = (self.rows, self.columns);
        let end = columns_end::<S, N>(at, columns);
        let zero = s.splat(0.0);
        let mut factor = factors::<S, BY, N>(s, by, at..end);
        for i in tokens {
            let t = self.token(i);
            let mut queue = PrefetchQueue::empty();
            if at == 0 {
                self.prefetch.queue_rows(i, &mut queue);
            }
            let schedule = queue.schedule(rows.div_ceil(ROWS_PER_PREFETCH));
            let here = t * columns + at..t * columns + end;
            let mut y = [[zero; N]; W];
            self.load_written(s, here.clone(), &mut y);
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
                if r.is_multiple_of(ROWS_PER_PREFETCH) {
                    schedule.issue(r / ROWS_PER_PREFETCH);
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

/// The end of `N` vectors of columns from `at` on. Only a single vector may be partial.
#[inline(always)]
fn columns_end<S: Lanes, const N: usize>(at: usize, columns: usize) -> usize {
    if N == 1 { (at + S::LANES).min(columns) } else { at + N * S::LANES }
}

/// `N` vectors of a row, of which a single one may be partial. The slice has a length that is known at compile time,
/// so that loads and stores are not bounds-checked one by one and the loop over rows stays one block. Callers take
/// rows from `chunks_exact_mut` by hand: zipped with their index, each row would cost a multiplication.
#[inline(always)]
fn cells<S: Lanes, const N: usize>(row: &mut [f32], from: usize, width: usize) -> &mut [f32] {
    &mut row[from..][..if N == 1 { width } else { N * S::LANES }]
}

/// Adds a token's writes to row `r`.
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

/// Adds row `r` to a token's reads.
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

/// The factors of a block of columns, where they are the same for all rows.
#[inline(always)]
fn factors<S: Lanes, const BY: u8, const N: usize>(s: S, by: &[f32], columns: Range<usize>) -> [S::V; N] {
    let mut factors = [s.splat(if BY == WHOLE { by[0] } else { 1.0 }); N];
    if BY == COLUMNS {
        load(s, &by[columns], &mut factors);
    }
    factors
}

/// Loads `N` vectors, of which a single one may be partial.
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

/// Stores `N` vectors, of which a single one may be partial.
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
    // Whole tiles first, then the remaining elements one by one.
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
