//! Sampling: from logits to a token.

use longreach_models::GenerationConfig;

use crate::Error;

mod adjust;
mod cut;
mod sampler;

pub use adjust::History;
pub use sampler::Sampler;

/// Sampling options, applied in the order of transformers: logit bias, repetition penalty, presence and frequency
/// penalties, suppressed tokens, temperature, top-k, top-p, min-p, typical-p.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy. At least 0.
    pub temperature: f32,
    /// Keeps the `k` most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of tokens whose probabilities sum to at least `p`, in (0, 1] (nucleus sampling).
    pub top_p: f32,
    /// Keeps tokens at least this fraction as probable as the most probable one, 0 to 1.
    pub min_p: f32,
    /// Keeps the tokens whose information is closest to the entropy, until their probabilities sum to `p`, in (0, 1]; 1
    /// keeps all. Meister et al. 2023 (locally typical sampling), §3.
    pub typical_p: f32,
    /// Divides positive and multiplies negative logits of tokens that occurred before, in the prompt or the output; 1
    /// disables it (Keskar et al. 2019). Above 0.
    pub repetition_penalty: f32,
    /// Is subtracted from the logits of tokens that were generated before; 0 disables it. As in OpenAI's API.
    pub presence_penalty: f32,
    /// Is subtracted from the logit of a token for each time that it was generated before; 0 disables it. As in
    /// OpenAI's API.
    pub frequency_penalty: f32,
    /// Is added to the logits of tokens; −∞ excludes a token.
    pub bias: Vec<(u32, f32)>,
    /// Tokens that are never generated.
    pub suppress: Vec<u32>,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.7, top_p: 0.95, min_p: 0.02, ..Self::greedy() }
    }
}

impl Sampling {
    /// Greedy decoding: always the most probable token.
    pub const fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            bias: Vec::new(),
            suppress: Vec::new(),
            seed: 0,
        }
    }

    /// The options of a model's `generation_config.json`. Missing options default to those of transformers if it sets `do_sample`, and to
    /// [`Sampling::default`] if it does not mention it; `do_sample: false` is greedy.
    pub fn of_model(config: &GenerationConfig) -> Self {
        let base = Self {
            repetition_penalty: config.repetition_penalty.unwrap_or(1.0),
            bias: config.bias.clone(),
            suppress: config.suppress.clone(),
            ..Self::greedy()
        };
        let [temperature, top_p, min_p] = match config.sample {
            Some(false) => return base,
            Some(true) => [1.0, 1.0, 0.0],
            None => [Self::default().temperature, Self::default().top_p, Self::default().min_p],
        };
        Self {
            temperature: config.temperature.unwrap_or(temperature),
            top_k: config.top_k.unwrap_or(if config.sample.is_some() { 50 } else { 0 }),
            top_p: config.top_p.unwrap_or(top_p),
            min_p: config.min_p.unwrap_or(min_p),
            typical_p: config.typical_p.unwrap_or(1.0),
            ..base
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
        ok("typical-p", self.typical_p, self.typical_p > 0.0 && self.typical_p <= 1.0, "above 0, at most 1")?;
        let r = self.repetition_penalty;
        ok("repetition-penalty", r, r.is_finite() && r > 0.0, "a number above 0")?;
        ok("presence-penalty", self.presence_penalty, self.presence_penalty.is_finite(), "a number")?;
        ok("frequency-penalty", self.frequency_penalty, self.frequency_penalty.is_finite(), "a number")?;
        let good = |bias: f32| bias.is_finite() || bias == f32::NEG_INFINITY;
        self.bias.iter().try_for_each(|(_, bias)| ok("logit-bias", *bias, good(*bias), "a number, or -inf"))
    }
}
