//! Multi-query associative recall: predict the value that followed each of many keys. Arora et al. 2023 (Zoology), §3.
//!
//! A sequence begins with key-value pairs. Each key occurs once more, at a distance drawn from a power law, and the model must predict its value there. All
//! other tokens are random and have no loss.

mod picture;
mod study;

pub use study::{Standing, Study, StudyEvent};

use rand::seq::index::sample;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use crate::learner::NONE;

/// An associative-recall task.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Recall {
    /// Vocabulary size; the lower half are keys, the upper half values.
    pub vocabulary: usize,
    /// Tokens per sequence; even.
    pub length: usize,
    /// Key-value pairs per sequence.
    pub pairs: usize,
    /// Exponent of the power law of distances, in (0, 1]: 1 is uniform, values near 0 favour short distances.
    #[serde(default = "power")]
    pub power: f64,
}

fn power() -> f64 {
    0.01
}

impl Recall {
    /// Checks the task; the error names the field.
    pub fn check(&self) -> Result<(), String> {
        let Self { vocabulary, length, pairs, power } = *self;
        if pairs == 0 || 4 * pairs > length || length % 2 != 0 {
            return Err(format!(
                "`task`: {pairs} pairs and their queries need an even `length` of at least {}, found {length}",
                4 * pairs.max(1)
            ));
        }
        if vocabulary < 2 * pairs + 2 {
            return Err(format!("`task.vocabulary`: want at least {}, found {vocabulary}", 2 * pairs + 2));
        }
        if !(power > 0.0 && power <= 1.0) {
            return Err(format!("`task.power`: want above 0 and at most 1, found {power}"));
        }
        Ok(())
    }

    /// `n` sequences and their targets, both `[n × length]`. Targets are negative except at queries, where they are the value. Deterministic for a seed. Panics
    /// on a task that [`Recall::check`] refuses.
    pub fn sequences(&self, n: usize, seed: u64) -> (Vec<u32>, Vec<i64>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut ids, mut targets) = (Vec::with_capacity(n * self.length), Vec::with_capacity(n * self.length));
        for _ in 0..n {
            let (row, answers) = self.sequence(&mut rng);
            ids.extend(row);
            targets.extend(answers);
        }
        (ids, targets)
    }

    fn sequence(&self, rng: &mut ChaCha8Rng) -> (Vec<u32>, Vec<i64>) {
        let half = self.vocabulary / 2;
        let mut ids: Vec<u32> = (0..self.length).map(|_| rng.random_range(0..self.vocabulary as u32)).collect();
        let mut targets = vec![NONE; self.length];
        // Token 0 is not used as a key.
        let keys = sample(rng, half - 1, self.pairs).into_iter().map(|i| (i + 1) as u32);
        let values = sample(rng, self.vocabulary - half, self.pairs).into_iter().map(|i| (i + half) as u32);
        let pairs: Vec<(u32, u32)> = keys.zip(values).collect();
        for (at, (key, value)) in pairs.iter().enumerate() {
            (ids[2 * at], ids[2 * at + 1]) = (*key, *value);
        }
        let context = 2 * self.pairs;
        for ((key, value), gap) in pairs.iter().zip(self.gaps((self.length - context) / 2, rng)) {
            let at = context + 2 * gap;
            ids[at] = *key;
            targets[at] = i64::from(*value);
        }
        (ids, targets)
    }

    /// Draws a distinct position out of `space` for each pair, with probability proportional to `(i + 1)^{power − 1}`.
    fn gaps(&self, space: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
        // Efraimidis and Spirakis 2006: the largest u^{1/w} are a weighted sample without replacement.
        let mut drawn: Vec<(f64, usize)> = (0..space)
            .map(|i| {
                let weight = ((i + 1) as f64).powf(self.power - 1.0);
                (rng.random::<f64>().max(f64::MIN_POSITIVE).ln() / weight, i)
            })
            .collect();
        drawn.sort_by(|a, b| b.0.total_cmp(&a.0));
        drawn.into_iter().take(self.pairs).map(|(_, i)| i).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: Recall = Recall { vocabulary: 64, length: 48, pairs: 8, power: 0.01 };

    #[test]
    fn every_question_has_the_answer_that_stood_behind_its_key() {
        let (ids, targets) = TASK.sequences(50, 3);
        for (row, answers) in ids.chunks(48).zip(targets.chunks(48)) {
            let asked: Vec<usize> = (0..48).filter(|at| answers[*at] >= 0).collect();
            assert_eq!(asked.len(), 8);
            for at in asked {
                assert!(at >= 16);
                let pair = (0..8).find(|pair| row[2 * pair] == row[at]).expect("a key that was told");
                assert_eq!(i64::from(row[2 * pair + 1]), answers[at]);
                assert!(row[at] < 32 && answers[at] >= 32);
            }
        }
    }

    #[test]
    fn near_questions_are_likelier() {
        let (_, targets) = TASK.sequences(2000, 5);
        let at = |place: usize| targets.chunks(48).filter(|row| row[place] >= 0).count();
        assert!(at(16) > 2 * at(46), "{} {}", at(16), at(46));
    }

    #[test]
    fn a_seed_is_a_text() {
        assert_eq!(TASK.sequences(3, 9), TASK.sequences(3, 9));
        assert_ne!(TASK.sequences(3, 9).0, TASK.sequences(3, 10).0);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(Recall { length: 30, ..TASK }.check().expect_err("refused").contains("at least 32"));
        assert!(Recall { vocabulary: 12, ..TASK }.check().expect_err("refused").contains("vocabulary"));
        assert!(TASK.check().is_ok());
    }
}
