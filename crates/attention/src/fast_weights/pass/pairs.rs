//! Pairs of tokens, where what the first reads changes what the second writes.

use std::ops::Range;

use longreach_simd::{Lanes, math};

use super::cells::{cells, columns_end, load, store};
use super::{Carry, Pass, ROWS_PER_PREFETCH, Step};

impl<C: Carry<W, P>, const W: usize, const P: usize> Pass<'_, C, W, P> {
    /// As [`Pass::groups`] with two tokens, where the last read of the first changes the second's write. That read is
    /// assembled from the matrix before both tokens and the first one's writes,
    /// `X_aᵀ p = X_{a−1}ᵀ p + Σ (u_a · p) y_a`.
    #[inline(always)]
    pub(super) fn pairs<S: Lanes, const N: usize>(&mut self, s: S, at: usize, tokens: Range<usize>) {
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
}
