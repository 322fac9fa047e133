//! `generation_config.json`: the publisher's default settings for text generation.

use std::path::Path;

use serde_json::Value;

use crate::{Error, Fields};

/// The contents of `generation_config.json`; absent fields are `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// The end-of-text tokens; an empty list if the file says that there are none.
    pub eos: Option<Vec<u32>>,
    /// Whether tokens are sampled (`do_sample`) instead of decoded greedily.
    pub sample: Option<bool>,
    /// The divisor of the logits.
    pub temperature: Option<f32>,
    /// The number of most likely tokens that are kept; 0 keeps all.
    pub top_k: Option<usize>,
    /// Keeps the smallest set of most likely tokens whose total probability reaches `p`.
    pub top_p: Option<f32>,
    /// Keeps tokens whose probability is at least this fraction of the largest one.
    pub min_p: Option<f32>,
    /// Keeps the tokens whose information is closest to the entropy, until their total probability reaches `p`.
    pub typical_p: Option<f32>,
    /// The penalty of tokens that already occurred; 1 has no effect.
    pub repetition_penalty: Option<f32>,
    /// What is added to the logits of tokens (`sequence_bias` of sequences of one token).
    pub bias: Vec<(u32, f32)>,
    /// Tokens that are never generated (`suppress_tokens`).
    pub suppress: Vec<u32>,
    /// Strings at which generation stops (`stop_strings`).
    pub stops: Vec<String>,
    /// The maximum number of tokens to generate.
    pub max_new_tokens: Option<usize>,
    /// The fields that affect generation in transformers but are not supported here.
    pub unsupported: Vec<String>,
}

/// Fields that affect generation in transformers and are not supported, with the values at which they have no effect.
const UNSUPPORTED: [(&str, &[f64]); 17] = [
    ("num_beams", &[1.0]),
    ("no_repeat_ngram_size", &[0.0]),
    ("encoder_no_repeat_ngram_size", &[0.0]),
    ("encoder_repetition_penalty", &[1.0]),
    ("epsilon_cutoff", &[0.0]),
    ("eta_cutoff", &[0.0]),
    ("top_h", &[]),
    ("penalty_alpha", &[0.0]),
    ("guidance_scale", &[1.0]),
    ("min_length", &[0.0]),
    ("min_new_tokens", &[0.0]),
    ("bad_words_ids", &[]),
    ("begin_suppress_tokens", &[]),
    ("forced_bos_token_id", &[]),
    ("forced_eos_token_id", &[]),
    ("exponential_decay_length_penalty", &[]),
    ("watermarking_config", &[]),
];

impl GenerationConfig {
    /// Reads the file in a directory; all fields are `None` if there is no file. Errors if it cannot be parsed.
    pub fn read(directory: &Path) -> Result<Self, Error> {
        let file = directory.join("generation_config.json");
        if !file.exists() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(&file).map_err(|e| Error::io(&file, e))?;
        let f = Fields::parse(file.display().to_string(), &text)?;
        let number = |name: &str| f.get(name).map(|_| f.number(name, 0.0)).transpose().map(|n| n.map(|n| n as f32));
        let count = |name: &str| f.get(name).map(|_| f.count(name, 0)).transpose();
        let changes = |(name, idle): &&(&str, &[f64])| {
            f.get(name).is_some_and(|value| match value {
                Value::Array(list) => !list.is_empty(),
                value => !value.as_f64().is_some_and(|number| idle.contains(&number)),
            })
        };
        let mut unsupported: Vec<String> =
            UNSUPPORTED.iter().filter(changes).map(|(name, _)| (*name).to_owned()).collect();
        let (bias, others) = biases(&f)?;
        if others {
            unsupported.push("sequence_bias of several tokens".into());
        }
        Ok(Self {
            eos: if f.given("eos_token_id") { Some(f.ids("eos_token_id")?) } else { None },
            sample: f.get("do_sample").map(|_| f.flag("do_sample", false)).transpose()?,
            temperature: number("temperature")?,
            top_k: count("top_k")?,
            top_p: number("top_p")?,
            min_p: number("min_p")?,
            typical_p: number("typical_p")?,
            repetition_penalty: number("repetition_penalty")?,
            bias,
            suppress: f.ids("suppress_tokens")?,
            stops: stops(&f)?,
            max_new_tokens: count("max_new_tokens")?,
            unsupported,
        })
    }
}

/// The biases of `sequence_bias`, a list of pairs of a sequence and its bias, for sequences of one token; and whether
/// there are longer ones.
fn biases(f: &Fields) -> Result<(Vec<(u32, f32)>, bool), Error> {
    let wrong = || f.error("field `sequence_bias`: want a list of pairs [[token, ..], bias]");
    let (mut biases, mut others) = (Vec::new(), false);
    let pairs = match f.get("sequence_bias") {
        None | Some(Value::Null) => return Ok((biases, others)),
        Some(list) => list.as_array().ok_or_else(wrong)?,
    };
    for pair in pairs {
        let [Value::Array(sequence), bias] = pair.as_array().map_or(&[][..], Vec::as_slice) else {
            return Err(wrong());
        };
        let bias = bias.as_f64().ok_or_else(wrong)? as f32;
        match &sequence[..] {
            [id] => biases.push((id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong)?, bias)),
            _ => others = true,
        }
    }
    Ok((biases, others))
}

/// `stop_strings`, a string or a list of strings.
fn stops(f: &Fields) -> Result<Vec<String>, Error> {
    let wrong = || f.error("field `stop_strings`: want a string, or a list of strings");
    let list = match f.get("stop_strings") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::String(stop)) => return Ok(vec![stop.clone()]),
        Some(list) => list.as_array().ok_or_else(wrong)?,
    };
    list.iter().map(|stop| stop.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_file_says_is_read_and_what_it_leaves_out_is_absent() {
        let folder = tempfile::tempdir().expect("a directory");
        assert_eq!(GenerationConfig::read(folder.path()).expect("none"), GenerationConfig::default());
        let read = |text: &str| {
            std::fs::write(folder.path().join("generation_config.json"), text).expect("written");
            GenerationConfig::read(folder.path())
        };
        let some = read(
            r#"{"eos_token_id": [2, 7], "do_sample": true, "temperature": 0.6, "num_beams": 1,
            "typical_p": 0.9, "suppress_tokens": [5, 6], "sequence_bias": [[[3], -1.5], [[1, 2], 4.0]], "stop_strings": ["END"],
            "no_repeat_ngram_size": 3}"#,
        );
        let some = some.expect("a whole file");
        assert_eq!((some.eos, some.sample, some.temperature), (Some(vec![2, 7]), Some(true), Some(0.6)));
        assert_eq!((some.top_k, some.typical_p, some.suppress), (None, Some(0.9), vec![5, 6]));
        assert_eq!((some.bias, some.stops), (vec![(3, -1.5)], vec!["END".to_owned()]));
        assert_eq!(some.unsupported, ["no_repeat_ngram_size", "sequence_bias of several tokens"]);
        let none = read(r#"{"eos_token_id": null}"#).expect("a whole file");
        assert_eq!(none.eos, Some(Vec::new()), "null is no token");
        assert!(read(r#"{"eos_token_id": "</s>"}"#).is_err());
        for bad in [
            r#"{"temperature": "hot"}"#,
            r#"{"sequence_bias": [[3, 1.0]]}"#,
            r#"{"sequence_bias": [[[3], "much"]]}"#,
            r#"{"stop_strings": [1]}"#,
            r#"{"suppress_tokens": ["a"]}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
