//! The sampler: a random stream, and the choice of a token.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::cut::{Token, likeliest, nucleus, typical};
use crate::{Error, History, Sampling};

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
        let rng = ChaCha8Rng::seed_from_u64(sampling.seed);
        Ok(Self { sampling, rng })
    }

    /// The same with another of the 2⁶⁴ independent random streams of its seed, at its start. A new sampler has stream 0.
    #[must_use]
    pub fn stream(mut self, stream: u64) -> Self {
        self.rng.set_stream(stream);
        self.set_position(0);
        self
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

    /// Goes on at a position of the random stream of a seed, as a saved state says.
    pub fn resume(&mut self, seed: u64, position: u128) {
        self.sampling.seed = seed;
        self.rng = ChaCha8Rng::seed_from_u64(seed);
        self.set_position(position);
    }

    /// Samples a token from `logits`, `[vocabulary]`, after the text of `history`. O(vocabulary + kept log kept) time.
    pub fn choose(&mut self, logits: &[f32], history: &History) -> u32 {
        let logits = self.sampling.adjusted(logits, history);
        if self.sampling.temperature == 0.0 {
            return best(&logits);
        }
        let kept = self.kept(&logits);
        let mut left = self.rng.random::<f64>() * kept.iter().map(|(_, weight)| weight).sum::<f64>();
        for (id, weight) in &kept {
            left -= weight;
            if left < 0.0 {
                return *id;
            }
        }
        // Rounding may leave a rest, which is that of the last token that can be sampled.
        kept.iter().rev().find(|(_, weight)| *weight > 0.0).map_or_else(|| best(&logits), |(id, _)| *id)
    }

    /// The tokens that may be sampled from `logits`, `[vocabulary]`, after the text of `history`, with their
    /// probabilities, most probable first.
    pub fn probabilities(&self, logits: &[f32], history: &History) -> Vec<(u32, f64)> {
        let logits = self.sampling.adjusted(logits, history);
        if self.sampling.temperature == 0.0 {
            return vec![(best(&logits), 1.0)];
        }
        let kept = self.kept(&logits);
        let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
        kept.into_iter().filter(|(_, weight)| *weight > 0.0).map(|(id, weight)| (id, weight / total)).collect()
    }

    /// The tokens that are kept of adjusted logits, most probable first, with weights proportional to their
    /// probabilities.
    fn kept(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let s = &self.sampling;
        let mut order: Vec<Token> = logits.iter().enumerate().map(|(i, x)| (i as u32, *x)).collect();
        if s.top_k > 0 && s.top_k < order.len() {
            order.select_nth_unstable_by(s.top_k - 1, likeliest);
            order.truncate(s.top_k);
            order.sort_unstable_by(likeliest);
        }
        // The weight of the most probable token is 1.
        let top = order.iter().map(|(_, x)| *x).fold(f32::NEG_INFINITY, f32::max);
        let weight = |(_, x): &Token| f64::from((x - top) / s.temperature).exp();
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
        if s.typical_p < 1.0 {
            typical(&mut order, weight, f64::from(s.typical_p));
        }
        order.iter().map(|token| (token.0, weight(token))).collect()
    }
}

/// The most probable token; ties go to the lower id.
fn best(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, x) in logits.iter().enumerate() {
        if *x > best.1 {
            best = (i, *x);
        }
    }
    best.0 as u32
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;

    fn counts(sampling: Sampling, before: &[bool]) -> [usize; 4] {
        let mut sampler = Sampler::new(sampling).expect("valid options");
        let (mut counts, history) = ([0; 4], seen(before));
        for _ in 0..20_000 {
            counts[sampler.choose(&[1.0, 2.0, 0.0, -1.0], &history) as usize] += 1;
        }
        counts
    }

    fn plain() -> Sampling {
        Sampling { temperature: 1.0, seed: 3, ..Sampling::greedy() }
    }

    fn seen(seen: &[bool]) -> History {
        History { seen: seen.to_vec(), ..History::default() }
    }

    #[test]
    fn frequencies_are_the_softmax() {
        let got = counts(plain(), &[]);
        let total: f64 = [1.0f64, 2.0, 0.0, -1.0].iter().map(|x| x.exp()).sum();
        for (n, x) in got.into_iter().zip([1.0f64, 2.0, 0.0, -1.0]) {
            assert!((n as f64 / 20_000.0 - x.exp() / total).abs() < 0.012, "{got:?}");
        }
    }

    #[test]
    fn each_option_cuts_what_it_says() {
        assert_eq!(counts(Sampling { top_k: 2, ..plain() }, &[])[2..], [0, 0]);
        // Probabilities are 0.24, 0.64, 0.09, 0.03.
        assert_eq!(counts(Sampling { top_p: 0.6, ..plain() }, &[]), [0, 20_000, 0, 0]);
        assert_eq!(counts(Sampling { top_p: 0.7, ..plain() }, &[])[2..], [0, 0]);
        assert_eq!(counts(Sampling { min_p: 0.2, ..plain() }, &[])[2..], [0, 0]);
        assert_eq!(counts(Sampling { temperature: 0.0, ..plain() }, &[]), [0, 20_000, 0, 0]);
        let penalty = Sampling { temperature: 0.0, repetition_penalty: 3.0, ..plain() };
        assert_eq!(counts(penalty, &[false, true]), [20_000, 0, 0, 0]);
    }

    /// The definition: all tokens are sorted, and each option cuts the list.
    fn naive(s: &Sampling, rng: &mut ChaCha8Rng, logits: &[f32]) -> u32 {
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
                    let sampling = Sampling { temperature, top_k, top_p, min_p, ..plain() };
                    let mut sampler = Sampler::new(sampling.clone()).expect("valid options");
                    let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
                    for _ in 0..20 {
                        let logits: Vec<f32> = (0..size).map(|_| numbers.random_range(-40..40) as f32 / 8.0).collect();
                        let want = naive(&sampling, &mut rng, &logits);
                        assert_eq!(sampler.choose(&logits, &History::default()), want, "{sampling:?}, {size} tokens");
                    }
                }
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_and_a_position_goes_on() {
        let mut a = Sampler::new(plain()).expect("valid options");
        let draw = |s: &mut Sampler| (0..50).map(|_| s.choose(&[0.0; 8], &History::default())).collect::<Vec<_>>();
        let first = draw(&mut a);
        let mut b = Sampler::new(plain()).expect("valid options");
        assert_eq!(first, draw(&mut b));
        let mut c = Sampler::new(plain()).expect("valid options");
        c.set_position(a.position());
        assert_eq!(draw(&mut a), draw(&mut c));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            Sampling { temperature: -1.0, ..plain() },
            Sampling { temperature: f32::NAN, ..plain() },
            Sampling { top_p: 0.0, ..plain() },
            Sampling { min_p: 1.5, ..plain() },
            Sampling { typical_p: 0.0, ..plain() },
            Sampling { repetition_penalty: 0.0, ..plain() },
            Sampling { presence_penalty: f32::INFINITY, ..plain() },
            Sampling { frequency_penalty: f32::NAN, ..plain() },
            Sampling { bias: vec![(1, f32::INFINITY)], ..plain() },
        ] {
            assert!(Sampler::new(bad.clone()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_excluded_token_is_never_sampled() {
        let logits = [0.5, 3.0, f32::NEG_INFINITY, 0.0];
        for temperature in [0.0, 0.01, 50.0] {
            let sampling = Sampling { temperature, suppress: vec![1], bias: vec![(3, f32::NEG_INFINITY)], ..plain() };
            let mut sampler = Sampler::new(sampling).expect("valid options");
            for _ in 0..500 {
                assert_eq!(sampler.choose(&logits, &History::default()), 0);
            }
        }
    }

    /// The probabilities after each processor of transformers, and after several in its order: see goldens/sampling.py.
    #[test]
    fn probabilities_are_those_of_transformers() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/sampling.json");
        let json: Value = serde_json::from_str(&std::fs::read_to_string(file).expect("the goldens")).expect("JSON");
        let floats = |value: &Value| -> Vec<f64> {
            value.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
        };
        let ids = |value: &Value| -> Vec<u32> { floats(value).into_iter().map(|id| id as u32).collect() };
        let cases = json["cases"].as_array().expect("a list");
        assert!(cases.len() > 60, "{}", cases.len());
        for case in cases {
            let logits: Vec<f32> = floats(&json["logits"][case["logits"].as_u64().expect("a number") as usize])
                .iter()
                .map(|x| *x as f32)
                .collect();
            let mut history = History::new(logits.len());
            history.read(&ids(&json["prompt"]));
            ids(&json["written"]).into_iter().for_each(|id| history.write(id));
            let options = &case["options"];
            let number =
                |name: &str, idle: f32| options.get(name).map_or(idle, |x| x.as_f64().expect("a number") as f32);
            let bias = options.get("bias").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let sampling = Sampling {
                temperature: number("temperature", 1.0),
                top_k: number("top_k", 0.0) as usize,
                top_p: number("top_p", 1.0),
                min_p: number("min_p", 0.0),
                typical_p: number("typical_p", 1.0),
                repetition_penalty: number("repetition_penalty", 1.0),
                presence_penalty: number("presence_penalty", 0.0),
                frequency_penalty: number("frequency_penalty", 0.0),
                bias: bias.iter().map(|pair| (floats(pair)[0] as u32, floats(pair)[1] as f32)).collect(),
                suppress: options.get("suppress").map(ids).unwrap_or_default(),
                seed: 0,
            };
            let sampler = Sampler::new(sampling).expect("valid options");
            let mut got = sampler.probabilities(&logits, &history);
            got.sort_by_key(|(id, _)| *id);
            let (kept, want) = (ids(&case["ids"]), floats(&case["probabilities"]));
            assert_eq!(got.iter().map(|(id, _)| *id).collect::<Vec<_>>(), kept, "{options}");
            for ((id, got), want) in got.iter().zip(want) {
                assert!((got - want).abs() < 1e-5, "{options}: token {id} has {got}, want {want}");
            }
        }
    }
}
