//! Options of sampling, which `generate` and `chat` share.

use longreach_engine::{Engine, Sampler, Sampling};

use crate::failure::Failure;

#[derive(clap::Args)]
pub(crate) struct SamplingArgs {
    /// Maximum number of tokens to generate [default: 256]
    ///
    /// The model's generation_config.json sets the defaults of this option and of those below, except presence and frequency penalties and the seed. If it
    /// sets `do_sample` but not the others, those default to the values of transformers: temperature 1, top-k 50, top-p 1. The defaults shown here apply if
    /// it sets neither. Its `suppress_tokens` are never generated.
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
    /// Sample from the tokens whose information is closest to the entropy and whose probabilities sum to at least P; 1 means all [default: 1]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    typical_p: Option<f32>,
    /// Penalise tokens that occurred before, in the prompt or the output; 1 disables the penalty [default: 1]
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// Subtract X from the logits of tokens that were generated before [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Subtract X from the logit of a token for each time that it was generated before [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Add X to the logit of a token, given by its id, or to those of the tokens of a text; may be repeated
    ///
    /// -inf excludes a token. Digits alone are an id: quote a number that is meant as a text, as in --logit-bias "'42'=-1". `longreach tokenize` prints the
    /// tokens of a text.
    #[arg(long, value_name = "ID=X|TEXT=X")]
    logit_bias: Vec<Bias>,
    /// End the text before this string; may be repeated
    ///
    /// The string is not printed, and neither is what follows it. It may begin and end within tokens. The `stop_strings` of generation_config.json are the
    /// default.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Seed of the random numbers [default: 0, or continue those of the restored state]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

/// A token or a text, and what is added to its logits.
#[derive(Clone, Debug, PartialEq)]
struct Bias {
    of: Biased,
    by: f32,
}

#[derive(Clone, Debug, PartialEq)]
enum Biased {
    Id(u32),
    Text(String),
}

impl std::str::FromStr for Bias {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let (of, by) = given.rsplit_once('=').ok_or("want ID=X or TEXT=X")?;
        let by: f32 = by.trim().parse().map_err(|_| format!("`{by}` is not a number"))?;
        let quoted = ['\'', '"'].iter().find_map(|quote| of.strip_prefix(*quote)?.strip_suffix(*quote));
        let of = match quoted {
            Some(text) => Biased::Text(text.into()),
            None if !of.is_empty() && of.bytes().all(|b| b.is_ascii_digit()) => {
                Biased::Id(of.parse().map_err(|_| format!("`{of}` is too large for a token id"))?)
            }
            None => Biased::Text(of.into()),
        };
        match &of {
            Biased::Text(text) if text.is_empty() => Err("the text is empty".into()),
            _ => Ok(Self { of, by }),
        }
    }
}

/// Default of `--tokens`.
const TOKENS: usize = 256;

impl SamplingArgs {
    /// Checks the options before a model is loaded.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let bias = self.logit_bias.iter().map(|bias| (0, bias.by)).collect();
        Sampler::new(Sampling { bias, ..self.over(Sampling::default()) })?;
        match self.stop.iter().any(String::is_empty) {
            true => Err(Failure::new("--stop: the text is empty")),
            false => Ok(()),
        }
    }

    /// The sampling options for a model: those that were given, and its own.
    pub(crate) fn options(&self, engine: &Engine) -> Result<Sampling, Failure> {
        let mut sampling = self.over(Sampling::of_model(&engine.model.generation));
        let vocabulary = engine.model.decoder.vocabulary();
        for Bias { of, by } in &self.logit_bias {
            let ids = match of {
                Biased::Id(id) if *id as usize >= vocabulary => {
                    let most = vocabulary.saturating_sub(1);
                    return Err(Failure::new(format!("--logit-bias {id}={by}: want an id from 0 to {most}")));
                }
                Biased::Id(id) => vec![*id],
                Biased::Text(text) => engine.tokenizer()?.encode(text)?,
            };
            // A token that occurs twice in a text is biased once.
            let mut ids = ids;
            ids.sort_unstable();
            ids.dedup();
            sampling.bias.extend(ids.into_iter().map(|id| (id, *by)));
        }
        Ok(sampling)
    }

    /// The options that were given, with `default` for the others, and without biases of its own.
    fn over(&self, default: Sampling) -> Sampling {
        Sampling {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            typical_p: self.typical_p.unwrap_or(default.typical_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(default.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(default.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(default.frequency_penalty),
            seed: self.seed.unwrap_or(default.seed),
            ..default
        }
    }

    /// The maximum number of tokens to generate.
    pub(crate) fn most(&self, engine: &Engine) -> usize {
        self.tokens.or(engine.model.generation.max_new_tokens).unwrap_or(TOKENS)
    }

    /// The strings before which a text ends.
    pub(crate) fn stops(&self, engine: &Engine) -> Vec<String> {
        if self.stop.is_empty() { engine.model.generation.stops.clone() } else { self.stop.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bias_is_of_an_id_or_of_a_text() {
        let parse = |given: &str| given.parse::<Bias>().map(|bias| (bias.of, bias.by));
        assert_eq!(parse("42=-1.5"), Ok((Biased::Id(42), -1.5)));
        assert_eq!(parse("'42'=2"), Ok((Biased::Text("42".into()), 2.0)));
        assert_eq!(parse(" a=b =-inf"), Ok((Biased::Text(" a=b ".into()), f32::NEG_INFINITY)));
        assert_eq!(parse("\"=\"=0.5"), Ok((Biased::Text("=".into()), 0.5)));
        for (given, part) in
            [("42", "want ID=X"), ("42=much", "`much`"), ("99999999999=1", "too large"), ("=1", "empty")]
        {
            let error = parse(given).expect_err(given);
            assert!(error.contains(part), "{given}: {error}");
        }
    }
}
