//! Which rows a step learns: a function of the step's number, so that a training can stop and resume at any step.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// The number of draws after which every source had its share.
const BLOCK: usize = 1024;

/// The order in which the rows of several sources are drawn.
pub(crate) struct Mix {
    sources: Vec<Order>,
    /// The draws of each source in a block.
    quotas: Vec<usize>,
    seed: u64,
}

/// The rows of a source, shuffled anew in every epoch.
struct Order {
    rows: Vec<u32>,
    epoch: Option<usize>,
    seed: u64,
}

impl Order {
    /// Row `i` of all epochs.
    fn row(&mut self, i: usize) -> usize {
        let n = self.rows.len();
        let epoch = i / n;
        if self.epoch != Some(epoch) {
            self.rows.sort_unstable();
            self.rows.shuffle(&mut ChaCha8Rng::seed_from_u64(self.seed ^ (epoch as u64 + 1)));
            self.epoch = Some(epoch);
        }
        self.rows[i % n] as usize
    }
}

impl Mix {
    /// Sources of these numbers of rows, which are drawn by these weights; by their numbers of rows if there is none.
    pub(crate) fn new(rows: &[usize], weights: &[Option<f64>], seed: u64) -> Self {
        let given = weights.iter().any(Option::is_some);
        // Without weights the rows of all sources are one list.
        let (rows, weights): (Vec<usize>, Vec<f64>) = if given {
            (rows.to_vec(), weights.iter().map(|w| w.unwrap_or(1.0)).collect())
        } else {
            (vec![rows.iter().sum()], vec![1.0])
        };
        let all: f64 = weights.iter().sum();
        let mut quotas: Vec<usize> = weights.iter().map(|w| ((w / all * BLOCK as f64) as usize).max(1)).collect();
        let rest = BLOCK.saturating_sub(quotas.iter().sum());
        if let Some(most) = quotas.iter_mut().max() {
            *most += rest;
        }
        let order = |(i, n): (usize, &usize)| Order {
            rows: (0..*n as u32).collect(),
            epoch: None,
            seed: seed.wrapping_add((i as u64) << 32),
        };
        Self { sources: rows.iter().enumerate().map(order).collect(), quotas, seed }
    }

    /// The rows of a step, as source and row.
    pub(crate) fn step(&mut self, step: usize, batch: usize) -> Vec<(usize, usize)> {
        (step * batch..(step + 1) * batch).map(|k| self.draw(k)).collect()
    }

    fn draw(&mut self, k: usize) -> (usize, usize) {
        if self.sources.len() == 1 {
            return (0, self.sources[0].row(k));
        }
        let length: usize = self.quotas.iter().sum();
        let (block, within) = (k / length, k % length);
        let mut order: Vec<usize> =
            self.quotas.iter().enumerate().flat_map(|(s, n)| std::iter::repeat_n(s, *n)).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(self.seed ^ (block as u64) << 20));
        let source = order[within];
        let before = order[..within].iter().filter(|s| **s == source).count();
        (source, self.sources[source].row(block * self.quotas[source] + before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_drawn_by_their_weights_and_each_row_once_an_epoch() {
        let mut mix = Mix::new(&[40, 10], &[Some(3.0), Some(1.0)], 5);
        let drawn: Vec<_> = (0..32).flat_map(|step| mix.step(step, 32)).collect();
        let of_second = drawn.iter().filter(|(source, _)| *source == 1).count();
        assert_eq!(of_second, 256);
        let first: Vec<usize> = drawn.iter().filter(|(source, _)| *source == 1).map(|(_, row)| *row).take(10).collect();
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        // The same in another order of calls and other batches.
        let mut again = Mix::new(&[40, 10], &[Some(3.0), Some(1.0)], 5);
        assert_eq!(again.step(10, 32), drawn[320..352]);
        assert_eq!(again.step(1, 8), drawn[8..16]);
    }
}
