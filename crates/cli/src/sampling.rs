//! Options of sampling, which `generate` and `chat` share.

use longreach_engine::{Engine, Sampling};

#[derive(clap::Args)]
pub(crate) struct SamplingArgs {
    /// Maximum number of tokens to generate [default: 256]
    ///
    /// The model's generation_config.json sets the defaults of this option and of the five options below. If it sets `do_sample` but not the others, those
    /// default to the values of transformers: temperature 1, top-k 50, top-p 1. The defaults shown here apply if it sets neither.
    #[arg(short = 'n', long = "tokens", value_name = "N")]
    pub(crate) tokens: Option<usize>,
    /// Sampling temperature: below 1 is more conservative, above 1 more random, 0 is greedy [default: 0.7]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Sample from the K most probable tokens; 0 means all [default: 0]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Sample from the smallest set of tokens whose probabilities sum to at least P (nucleus sampling) [default: 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Sample from tokens that are at least P times as probable as the most probable one [default: 0.02]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Penalise tokens that occurred before, in the prompt or the output; 1 disables the penalty [default: 1]
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// Seed of the random numbers [default: 0, or continue those of the restored state]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

/// Default of `--tokens`.
const TOKENS: usize = 256;

impl SamplingArgs {
    /// The sampling options that were given, with `default` for the others.
    pub(crate) fn options(&self, default: Sampling) -> Sampling {
        Sampling {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(default.repetition_penalty),
            seed: self.seed.unwrap_or(default.seed),
        }
    }

    /// The maximum number of tokens to generate.
    pub(crate) fn most(&self, engine: &Engine) -> usize {
        self.tokens.or(engine.model.generation.max_new_tokens).unwrap_or(TOKENS)
    }
}
