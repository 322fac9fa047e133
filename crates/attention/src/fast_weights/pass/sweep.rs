//! The order of a pass: runs of tokens between cuts, in groups that share each load and store of a row.

use std::ops::Range;

use longreach_simd::Lanes;
use longreach_simd::cache::PrefetchQueue;

use super::cells::{cells, columns_end, factors, load, read, store, write};
use super::{COLUMNS, Carry, NONE, Pass, ROWS, ROWS_PER_PREFETCH, Step, WHOLE};
use crate::fast_weights::decay::DecayAxis;

impl<C: Carry<W, P>, const W: usize, const P: usize> Pass<'_, C, W, P> {
    /// Processes all tokens for `N` vectors of columns from `at` on.
    #[inline(always)]
    pub(super) fn block<S: Lanes, const N: usize>(&mut self, s: S, at: usize) {
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
    pub(super) fn token(&self, i: usize) -> usize {
        if self.reverse { self.tokens - 1 - i } else { i }
    }

    /// The rows of `G` tokens from the `i`th on.
    #[inline(always)]
    pub(super) fn rows_of<'r, const N: usize, const G: usize>(
        &self,
        rows: &[&'r [f32]; N],
        i: usize,
    ) -> [[&'r [f32]; N]; G] {
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
    pub(super) fn columns_of<const G: usize>(&self, i: usize, at: &Range<usize>) -> [Range<usize>; G] {
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
    pub(super) fn queue<const G: usize>(&self, i: usize, at: usize) -> PrefetchQueue {
        let mut queue = PrefetchQueue::empty();
        for i in (i..i + G).take_while(|_| at == 0) {
            self.prefetch.queue_rows(i, &mut queue);
        }
        queue
    }

    /// Processes `N` vectors of columns from `at` on, `G` tokens for each load and store of the matrix. Only without a
    /// carry.
    #[inline(always)]
    pub(super) fn groups<S: Lanes, const N: usize, const G: usize>(&mut self, s: S, at: usize, tokens: Range<usize>) {
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

    /// Applies the decay at a cut, along with the `i`th token if it is processed `alone`.
    #[inline(always)]
    pub(super) fn cut<S: Lanes, const BY: u8, const N: usize>(
        &mut self,
        s: S,
        by: &[f32],
        at: usize,
        i: usize,
        alone: bool,
    ) {
        if alone {
            self.singles::<S, BY, N>(s, by, at, i..i + 1);
        } else {
            self.decay::<S, BY, N>(s, by, at);
        }
    }

    /// Applies the decay at a cut to the matrix alone.
    #[inline(always)]
    pub(super) fn decay<S: Lanes, const BY: u8, const N: usize>(&mut self, s: S, by: &[f32], at: usize) {
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
    pub(super) fn load_written<S: Lanes, const N: usize>(&self, s: S, at: Range<usize>, y: &mut [[S::V; N]; W]) {
        for m in 0..W {
            load(s, &self.written[m][at.clone()], &mut y[m]);
        }
    }

    /// Applies the carry of the `i`th token to the next one, if there is one.
    #[inline(always)]
    pub(super) fn carry_on<S: Lanes>(&mut self, s: S, i: usize, at: Range<usize>) {
        if C::CARRIES && i + 1 < self.tokens {
            let tokens = [i, i + 1].map(|i| self.token(i));
            let columns = tokens.map(|t| t * self.columns + at.start..t * self.columns + at.end);
            self.carry.carry(s, Step { tokens, columns }, &mut self.written, &self.out);
        }
    }

    /// Processes tokens one at a time, for `N` vectors of columns from `at` on, the only one of which may be partial.
    /// Unless `BY` is [`NONE`], each token decays the matrix first.
    #[inline(always)]
    pub(super) fn singles<S: Lanes, const BY: u8, const N: usize>(
        &mut self,
        s: S,
        by: &[f32],
        at: usize,
        tokens: Range<usize>,
    ) {
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
