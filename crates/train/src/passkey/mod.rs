//! Passkey retrieval: a number hidden in filler text, asked for at its end. Mohtashami and Jaggi 2023 (Landmark attention), with different filler.
//!
//! Tokens are bytes.

mod picture;
mod study;

pub use study::{Asked, Course, PasskeyEvent, PasskeyStudy, Score};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use crate::learner::NONE;

/// The filler, repeated around the number.
const FILLER: &str = "Rain falls on the hill. A boat lies at the shore. Bread is in the oven. Someone hums a tune. ";
/// The text before the number, before its repetition, and after it.
const TOLD: [&str; 3] = ["The passkey is ", ", keep it in mind: ", ". "];
/// The text before the answer.
const QUESTION: &str = "What was the passkey? It was ";

/// A passkey-retrieval task.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Passkey {
    /// Length of a text including the answer, in bytes.
    pub length: usize,
    /// Number of digits.
    #[serde(default = "digits")]
    pub digits: usize,
}

/// `length` bytes of filler, starting at byte `from` of the repeated sentence.
fn filler(length: usize, from: usize) -> Vec<u32> {
    FILLER.bytes().cycle().skip(from % FILLER.len()).take(length).map(u32::from).collect()
}

fn digits() -> usize {
    5
}

/// A text with its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// The text up to the answer, one byte per token.
    pub prompt: Vec<u32>,
    /// The digits of the number, one byte per token.
    pub answer: Vec<u32>,
    /// Offset of the first occurrence of the number.
    pub at: usize,
}

impl Passkey {
    /// Length of the shortest possible text, in bytes.
    pub fn least(&self) -> usize {
        TOLD.iter().map(|part| part.len()).sum::<usize>() + QUESTION.len() + 3 * self.digits
    }

    /// Checks the task; the error names the field.
    pub fn check(&self) -> Result<(), String> {
        if self.digits == 0 || self.digits > 64 {
            return Err(format!("`task.digits`: want 1 to 64, found {}", self.digits));
        }
        if self.length < self.least() {
            return Err(format!("`task.length`: want at least {} bytes, found {}", self.least(), self.length));
        }
        Ok(())
    }

    /// A text with the number at `depth`: 0 is the beginning, 1 is just before the question. Deterministic for a seed.
    /// Panics on a task that [`Passkey::check`] refuses.
    pub fn text(&self, depth: f64, seed: u64) -> Hidden {
        self.draw(depth, &mut ChaCha8Rng::seed_from_u64(seed))
    }

    fn draw(&self, depth: f64, rng: &mut ChaCha8Rng) -> Hidden {
        let answer: Vec<u8> = (0..self.digits).map(|_| rng.random_range(b'0'..=b'9')).collect();
        let room = self.length - self.least();
        let before = (depth.clamp(0.0, 1.0) * room as f64).round() as usize;
        let from = rng.random_range(0..FILLER.len());
        let mut filler = FILLER.bytes().cycle().skip(from);
        let mut text: Vec<u8> = filler.by_ref().take(before).collect();
        text.extend(TOLD[0].bytes());
        let at = text.len();
        text.extend(&answer);
        text.extend(TOLD[1].bytes());
        text.extend(&answer);
        text.extend(TOLD[2].bytes());
        text.extend(filler.take(room - before));
        text.extend(QUESTION.bytes());
        let wide = |bytes: Vec<u8>| bytes.into_iter().map(u32::from).collect();
        Hidden { prompt: wide(text), answer: wide(answer), at }
    }

    /// `n` texts with random depths, each with all but the last digit of its answer, and their targets; both `[n × (length − 1)]`. Digits of the answer and of
    /// the repetition of the number are targets; other tokens have a negative target and no loss. Deterministic for a seed.
    pub fn sequences(&self, n: usize, seed: u64) -> (Vec<u32>, Vec<i64>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut ids, mut targets) = (Vec::with_capacity(n * self.length), Vec::with_capacity(n * self.length));
        for _ in 0..n {
            let depth = rng.random();
            let Hidden { prompt, answer, at } = self.draw(depth, &mut rng);
            let again = at + self.digits + TOLD[1].len();
            let told = |i: usize| i.checked_sub(again - 1).and_then(|digit| answer.get(digit));
            targets.extend((0..prompt.len() - 1).map(|i| told(i).map_or(NONE, |digit| i64::from(*digit))));
            targets.extend(answer.iter().map(|digit| i64::from(*digit)));
            ids.extend(prompt);
            ids.extend(&answer[..answer.len() - 1]);
        }
        (ids, targets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: Passkey = Passkey { length: 400, digits: 5 };

    #[test]
    fn the_number_stands_where_it_is_said_to_and_is_what_is_asked_for() {
        for (depth, seed) in [(0.0, 1), (0.5, 2), (1.0, 3)] {
            let hidden = TASK.text(depth, seed);
            assert_eq!(hidden.prompt.len() + hidden.answer.len(), 400);
            assert_eq!(hidden.prompt[hidden.at..hidden.at + 5], hidden.answer[..]);
            let text: String = hidden.prompt.iter().map(|byte| char::from(*byte as u8)).collect();
            assert!(text.ends_with("It was "), "{text}");
            assert_eq!(text.matches(char::is_numeric).count(), 10);
            let room = (400 - TASK.least()) as f64;
            assert_eq!(hidden.at, TOLD[0].len() + (depth * room).round() as usize);
        }
        let digits: Vec<_> = (0..20).map(|seed| TASK.text(0.3, seed).answer).collect();
        assert!(digits.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn what_counts_are_the_digits_of_the_answer() {
        let (ids, targets) = TASK.sequences(3, 9);
        assert_eq!((ids.len(), targets.len()), (3 * 399, 3 * 399));
        for (row, answers) in ids.chunks(399).zip(targets.chunks(399)) {
            let counted: Vec<usize> = (0..399).filter(|at| answers[*at] >= 0).collect();
            assert_eq!(counted[5..], (394..399).collect::<Vec<_>>());
            assert!(counted[..5].windows(2).all(|pair| pair[0] + 1 == pair[1]));
            // Each target but the last is the next token of the input.
            assert!(counted[..9].iter().all(|at| i64::from(row[at + 1]) == answers[*at]));
            // The answer equals the repetition of the number.
            assert!((0..5).all(|digit| answers[counted[digit]] == answers[counted[5 + digit]]));
        }
        assert_eq!(TASK.sequences(2, 4), TASK.sequences(2, 4));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(Passkey { length: 60, ..TASK }.check().expect_err("refused").contains("at least"));
        assert!(Passkey { digits: 0, ..TASK }.check().expect_err("refused").contains("1 to 64"));
        assert!(TASK.check().is_ok());
    }
}
