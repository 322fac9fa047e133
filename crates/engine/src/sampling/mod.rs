//! Sampling: from logits to a token.

use std::cmp::Ordering;

use longreach_models::GenerationConfig;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::Error;

/// Sampling options, applied in the order of transformers: repetition penalty, temperature, top-k, top-p, min-p.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy. At least 0.
    pub temperature: f32,
    /// Keeps the `k` most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of tokens whose probabilities sum to at least `p`, in (0, 1] (nucleus sampling).
    pub top_p: f32,
    /// Keeps tokens at least this fraction as probable as the most probable one, 0 to 1.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens that occurred before; 1 disables it (Keskar et al. 2019). Above 0.
    pub repetition_penalty: f32,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.7, top_k: 0, top_p: 0.95, min_p: 0.02, repetition_penalty: 1.0, seed: 0 }
    }
}

impl Sampling {
    /// Greedy decoding: always the most probable token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 }
    }

    /// The options of a model's `generation_config.json`. Missing options default to those of transformers if it sets `do_sample`, and to
    /// [`Sampling::default`] if it does not mention it; `do_sample: false` is greedy.
    pub fn of_model(config: &GenerationConfig) -> Self {
        let base = match config.sample {
            Some(true) => Self { temperature: 1.0, top_k: 50, top_p: 1.0, min_p: 0.0, ..Self::default() },
            Some(false) => {
                return Self { repetition_penalty: config.repetition_penalty.unwrap_or(1.0), ..Self::greedy() };
            }
            None => Self::default(),
        };
        Self {
            temperature: config.temperature.unwrap_or(base.temperature),
            top_k: config.top_k.unwrap_or(base.top_k),
            top_p: config.top_p.unwrap_or(base.top_p),
            min_p: config.min_p.unwrap_or(base.min_p),
            repetition_penalty: config.repetition_penalty.unwrap_or(base.repetition_penalty),
            seed: base.seed,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let ok = |name, value: f32, good: bool, want| {
            if good { Ok(()) } else { Err(Error::Sampling { name, want, found: value.to_string() }) }
        };
        let t = self.temperature;
        ok("temperature", t, t.is_finite() && t >= 0.0, "a number of at least 0")?;
        ok("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0, at most 1")?;
        ok("min-p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 to 1")?;
        let r = self.repetition_penalty;
        ok("repetition-penalty", r, r.is_finite() && r > 0.0, "a number above 0")
    }
}

/// Samples tokens; the same seed and logits give the same tokens on any machine.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// A sampler at the start of its random stream; an error if an option is out of range.
    pub fn new(sampling: Sampling) -> Result<Self, Error> {
        sampling.check()?;
        Ok(Self { sampling, rng: ChaCha8Rng::seed_from_u64(sampling.seed) })
    }

    /// Seed of the random numbers.
    pub fn seed(&self) -> u64 {
        self.sampling.seed
    }

    /// Position in the random stream, in 32-bit words.
    pub fn position(&self) -> u128 {
        self.rng.get_word_pos()
    }

    /// Moves to a position of the random stream, in 32-bit words.
    pub fn set_position(&mut self, position: u128) {
        self.rng.set_word_pos(position);
    }

    /// Samples a token from `logits`, `[vocabulary]`; `seen`, of the same length, marks tokens that occurred before. O(vocabulary + kept log kept) time.
    pub fn choose(&mut self, logits: &[f32], seen: &[bool]) -> u32 {
        let s = self.sampling;
        let penalised = |(i, x): (usize, &f32)| {
            let again = seen.get(i).copied().unwrap_or(false);
            if !again || s.repetition_penalty == 1.0 {
                *x
            } else if *x < 0.0 {
                x * s.repetition_penalty
            } else {
                x / s.repetition_penalty
            }
        };
        let mut order: Vec<(u32, f32)> =
            logits.iter().enumerate().map(|(i, x)| (i as u32, penalised((i, x)))).collect();
        if s.temperature == 0.0 {
            return order.into_iter().min_by(likeliest).map_or(0, |(id, _)| id);
        }
        if s.top_k > 0 && s.top_k < order.len() {
            order.select_nth_unstable_by(s.top_k - 1, likeliest);
            order.truncate(s.top_k);
            order.sort_unstable_by(likeliest);
        }
        // The weight of the most probable token is 1.
        let top = order.iter().map(|(_, x)| *x).fold(f32::NEG_INFINITY, f32::max);
        let weight = |(_, x): &(u32, f32)| f64::from((x - top) / s.temperature).exp();
        // What min-p drops is behind what it keeps, so that top-p may come afterwards, with fewer tokens to sort.
        let mut total = 0.0;
        if s.top_p < 1.0 || s.min_p > 0.0 {
            order.retain(|token| {
                let weight = weight(token);
                total += weight;
                weight >= f64::from(s.min_p)
            });
        }
        if s.top_p < 1.0 {
            nucleus(&mut order, |token| weight(token) / total, f64::from(s.top_p));
        } else {
            order.sort_unstable_by(likeliest);
        }
        let weights: Vec<f64> = order.iter().map(weight).collect();
        let mut left = self.rng.random::<f64>() * weights.iter().sum::<f64>();
        for ((id, _), w) in order.iter().zip(&weights) {
            left -= w;
            if left < 0.0 {
                return *id;
            }
        }
        order.last().map_or(0, |(id, _)| *id)
    }
}

/// Most probable first; ties go to the lower id.
fn likeliest(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Keeps the most probable tokens, in order, until their probabilities sum to `p`. The nucleus is mostly small: only as
/// much is sorted as it needs.
fn nucleus(order: &mut Vec<(u32, f32)>, probability: impl Fn(&(u32, f32)) -> f64, p: f64) {
    let (mut sorted, mut end, mut reached) = (0, 256, 0.0);
    while sorted < order.len() {
        end = end.min(order.len());
        let rest = &mut order[sorted..];
        if end - sorted < rest.len() {
            rest.select_nth_unstable_by(end - sorted - 1, likeliest);
        }
        rest[..end - sorted].sort_unstable_by(likeliest);
        for i in sorted..end {
            if reached >= p {
                order.truncate(i);
                return;
            }
            reached += probability(&order[i]);
        }
        (sorted, end) = (end, 4 * end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(sampling: Sampling, seen: &[bool]) -> [usize; 4] {
        let mut sampler = Sampler::new(sampling).expect("valid options");
        let mut counts = [0; 4];
        for _ in 0..20_000 {
            counts[sampler.choose(&[1.0, 2.0, 0.0, -1.0], seen) as usize] += 1;
        }
        counts
    }

    const PLAIN: Sampling =
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 3 };

    #[test]
    fn frequencies_are_the_softmax() {
        let got = counts(PLAIN, &[]);
        let total: f64 = [1.0f64, 2.0, 0.0, -1.0].iter().map(|x| x.exp()).sum();
        for (n, x) in got.into_iter().zip([1.0f64, 2.0, 0.0, -1.0]) {
            assert!((n as f64 / 20_000.0 - x.exp() / total).abs() < 0.012, "{got:?}");
        }
    }

    #[test]
    fn each_option_cuts_what_it_says() {
        assert_eq!(counts(Sampling { top_k: 2, ..PLAIN }, &[])[2..], [0, 0]);
        // Probabilities are 0.24, 0.64, 0.09, 0.03.
        assert_eq!(counts(Sampling { top_p: 0.6, ..PLAIN }, &[]), [0, 20_000, 0, 0]);
        assert_eq!(counts(Sampling { top_p: 0.7, ..PLAIN }, &[])[2..], [0, 0]);
        assert_eq!(counts(Sampling { min_p: 0.2, ..PLAIN }, &[])[2..], [0, 0]);
        assert_eq!(counts(Sampling { temperature: 0.0, ..PLAIN }, &[]), [0, 20_000, 0, 0]);
        let penalty = Sampling { temperature: 0.0, repetition_penalty: 3.0, ..PLAIN };
        assert_eq!(counts(penalty, &[false, true]), [20_000, 0, 0, 0]);
    }

    /// The definition: all tokens are sorted, and each option cuts the list.
    fn naive(s: Sampling, rng: &mut ChaCha8Rng, logits: &[f32]) -> u32 {
        let mut order: Vec<(u32, f32)> = logits.iter().enumerate().map(|(i, x)| (i as u32, *x)).collect();
        order.sort_by(likeliest);
        order.truncate(if s.top_k > 0 { s.top_k } else { usize::MAX });
        let weights: Vec<f64> = order.iter().map(|(_, x)| f64::from((x - order[0].1) / s.temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        let (mut kept, mut reached) = (0, 0.0);
        while kept < weights.len() && reached < f64::from(s.top_p) && weights[kept] >= f64::from(s.min_p) {
            reached += weights[kept] / total;
            kept += 1;
        }
        let mut left = rng.random::<f64>() * weights[..kept].iter().sum::<f64>();
        for (i, w) in weights[..kept].iter().enumerate() {
            left -= w;
            if left < 0.0 {
                return order[i].0;
            }
        }
        order[kept - 1].0
    }

    #[test]
    fn tokens_are_those_of_the_definition() {
        let mut numbers = ChaCha8Rng::seed_from_u64(8);
        for size in [3, 300, 5_000] {
            for (top_k, top_p, min_p) in
                [(0, 0.95, 0.02), (0, 0.999, 0.0), (0, 0.3, 0.0), (40, 0.9, 0.0), (0, 1.0, 0.0), (700, 1.0, 0.1)]
            {
                // A wide and a narrow distribution, with ties.
                for temperature in [0.3, 2.0] {
                    let sampling = Sampling { temperature, top_k, top_p, min_p, ..PLAIN };
                    let mut sampler = Sampler::new(sampling).expect("valid options");
                    let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
                    for _ in 0..20 {
                        let logits: Vec<f32> = (0..size).map(|_| numbers.random_range(-40..40) as f32 / 8.0).collect();
                        let want = naive(sampling, &mut rng, &logits);
                        assert_eq!(sampler.choose(&logits, &[]), want, "{sampling:?}, {size} tokens");
                    }
                }
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_and_a_position_goes_on() {
        let mut a = Sampler::new(PLAIN).expect("valid options");
        let draw = |s: &mut Sampler| (0..50).map(|_| s.choose(&[0.0; 8], &[])).collect::<Vec<_>>();
        let first = draw(&mut a);
        let mut b = Sampler::new(PLAIN).expect("valid options");
        assert_eq!(first, draw(&mut b));
        let mut c = Sampler::new(PLAIN).expect("valid options");
        c.set_position(a.position());
        assert_eq!(draw(&mut a), draw(&mut c));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            Sampling { temperature: -1.0, ..PLAIN },
            Sampling { temperature: f32::NAN, ..PLAIN },
            Sampling { top_p: 0.0, ..PLAIN },
            Sampling { min_p: 1.5, ..PLAIN },
            Sampling { repetition_penalty: 0.0, ..PLAIN },
        ] {
            assert!(Sampler::new(bad).is_err(), "{bad:?}");
        }
    }
}
