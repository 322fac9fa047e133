//! The random blocks.

use super::{BigBird, OP};
use crate::softmax::random::Numpy;
use crate::{Error, error};

/// Sequence lengths with a separate rule.
const OLD: [usize; 3] = [1024, 3072, 4096];

impl BigBird {
    /// The random blocks of rows `1 .. n − 1`, per head.
    pub(super) fn random(&self, heads: usize, n: usize) -> Result<Vec<Vec<Vec<usize>>>, Error> {
        let Some(seed) = self.seed else { return Ok(vec![vec![vec![0; self.random_blocks]; n - 2]]) };
        let mut numpy = Numpy::new(seed);
        if OLD.contains(&(n * self.block)) {
            let fits = n * self.block <= self.max_length;
            error::parameter(OP, "max_length", fits, self.max_length, format!("at least {}", n * self.block))?;
            return Ok((0..heads).map(|_| self.old(n, &mut numpy)).collect());
        }
        self.planned(heads, n, &mut numpy)
    }

    /// The rule for the paper's lengths: any block of the first 1,024 tokens outside the window, one head at a time.
    fn old(&self, n: usize, numpy: &mut Numpy) -> Vec<Vec<usize>> {
        let all = self.max_length / self.block;
        let middle: Vec<usize> = (1..all - 1).collect();
        let last = if 1024 > 2 * self.block { 1024 / self.block - 1 } else { all - 1 };
        let upto = |from: usize, to: usize| {
            middle[from.min(middle.len())..to.min(middle.len()).max(from.min(middle.len()))].to_vec()
        };
        let mut rows: Vec<Vec<usize>> = (1..all - 1)
            .map(|i| {
                let from = match i {
                    1 => upto(2, last),
                    2 => upto(3, last),
                    _ if i == all - 3 || i == all - 2 => upto(0, last),
                    _ if i - 2 > last => upto(0, last),
                    _ if i + 1 == last => upto(0, i - 2),
                    _ => [upto(0, i - 2), upto(i + 1, last)].concat(),
                };
                let mut drawn = numpy.permutation(from);
                drawn.truncate(self.random_blocks);
                drawn
            })
            .collect();
        rows.truncate(n - 2);
        rows
    }

    /// The rule for other lengths: a plan determines how many blocks are drawn from the start and how many from the
    /// rest.
    fn planned(&self, heads: usize, n: usize, numpy: &mut Numpy) -> Result<Vec<Vec<Vec<usize>>>, Error> {
        let r = self.random_blocks;
        // The end of each range, and the number of blocks drawn from it.
        let plan = if 2 * r + 5 < n {
            vec![(2 * r + 5, r), (n, 0)]
        } else if r + 5 < n {
            vec![(r + 5, r / 2), (n, r - r / 2)]
        } else {
            vec![(n, r)]
        };
        let mut rows = vec![vec![Vec::new(); n]; heads];
        let mut draw = |row: usize, from: usize, to: usize, count: usize| {
            for of_head in rows.iter_mut() {
                of_head[row].extend(self.drawn(row, from, to, count, numpy)?);
            }
            Ok::<_, Error>(())
        };
        for (p, &(end, count)) in plan.iter().enumerate() {
            let start = if p > 0 { plan[p - 1].0 } else { 0 };
            if p > 0 {
                if count > 0 {
                    (1..start).try_for_each(|row| draw(row, start, end, count))?;
                }
                for (q, &(to, count)) in plan[..p].iter().enumerate().filter(|(_, (_, count))| *count > 0) {
                    let from = if q > 0 { plan[q - 1].0 } else { 0 };
                    (start..end).try_for_each(|row| draw(row, from, to, count))?;
                }
            }
            if count > 0 {
                (start.max(1)..end).try_for_each(|row| draw(row, start, end, count))?;
            }
        }
        Ok(rows.into_iter().map(|rows| rows[1..n - 1].to_vec()).collect())
    }

    /// Draws `count` blocks for a row from `from .. to`, outside its window and the two ends.
    fn drawn(&self, row: usize, from: usize, to: usize, count: usize, numpy: &mut Numpy) -> Result<Vec<usize>, Error> {
        let legal = |block: usize| {
            let window = row <= block + 1 && block <= row + 1;
            let end = block == 0 || block + 1 == to;
            // The second row and the last but one already attend to an end.
            let second = row == 1 && block + 2 == to || row + 2 == to && block == 1;
            !window && !end && !second
        };
        let drawn: Vec<usize> =
            numpy.permutation((from..to).collect()).into_iter().filter(|b| legal(*b)).take(count).collect();
        error::parameter(
            OP,
            "random_blocks",
            drawn.len() == count,
            self.random_blocks,
            format!("at most {} for row {row}", drawn.len()),
        )?;
        Ok(drawn)
    }
}
