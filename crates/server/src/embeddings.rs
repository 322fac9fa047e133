//! `POST /v1/embeddings`

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use longreach_engine::{BATCH, Long, Part, Prompt, TextEncoder, batches, normalize};
use serde_json::{Value, json};

use crate::fields::{Fields, ids, parse, wrong};
use crate::jobs::Jobs;
use crate::refusal::Refusal;
use crate::schema;
use crate::served::{Models, Purpose, Served};
use crate::settings::Settings;

/// The most inputs of a request.
const MOST: usize = 2048;

/// What is done with a text that is too long.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TooLong {
    Error,
    Truncate,
    /// The mean of the vectors of its windows, weighted by their tokens.
    Mean,
}

/// A request that was read: the parts of each input, in order.
pub(crate) struct Work {
    served: Arc<Served>,
    encoder: Arc<TextEncoder>,
    parts: Vec<Part>,
    /// The input of each part.
    of: Vec<usize>,
    inputs: usize,
    base64: bool,
    dimensions: Option<usize>,
    pub(crate) ignored: Vec<String>,
}

/// Reads a request.
pub(crate) fn prepare(body: &[u8], models: &Models, settings: &Settings) -> Result<Work, Refusal> {
    let map = parse(body)?;
    let f = Fields::new(&map);
    let mut ignored = f.unknown(&schema::names(&[schema::EMBEDDINGS]), settings.lenient)?;
    ignored.extend(f.get("user").map(|_| "user".to_owned()));
    let served = models.find(f.text("model")?, |purpose| matches!(purpose, Purpose::Embed(_)))?;
    let Purpose::Embed(encoder) = served.purpose.clone() else { return Err(Refusal::internal()) };
    let one_of = |name: &str, known: &[&str]| -> Result<Option<usize>, Refusal> {
        let Some(found) = f.text(name)? else { return Ok(None) };
        let at = known.iter().position(|known| *known == found);
        let found: String = found.chars().take(40).collect();
        let bad = || Refusal::value(name, format!("`{name}`: want {}, found {found}", known.join(" or ")));
        at.map(Some).ok_or_else(bad)
    };
    let base64 = one_of("encoding_format", &["float", "base64"])? == Some(1);
    let long = [TooLong::Error, TooLong::Truncate, TooLong::Mean]
        [one_of("long", &["error", "truncate", "mean"])?.unwrap_or(0)];
    let prompt = match (f.text("prompt_name")?, one_of("input_type", &["query", "document"])?) {
        (Some(name), _) => Prompt::Named(name),
        (None, Some(0)) => Prompt::Query,
        (None, Some(_)) => Prompt::Document,
        (None, None) => Prompt::Default,
    };
    let prompt = encoder.prompt(prompt)?.to_owned();
    let dimensions = f.whole("dimensions", 1..=encoder.width() as i64)?.map(|n| n as usize);
    let texts = texts(&f, &encoder)?;
    let (mut parts, mut of) = (Vec::new(), Vec::new());
    for (i, text) in texts.iter().enumerate() {
        let split = encoder.parts(
            text,
            &prompt,
            if long == TooLong::Truncate { Long::Truncate } else { Long::Split { overlap: 0 } },
        )?;
        if split.len() > 1 && long == TooLong::Error {
            let tokens: usize = split.iter().map(|part| part.ids.len()).sum();
            let message = format!(
                "`input[{i}]` has about {tokens} tokens, but the model reads {}: shorten it, or set `long` to \"truncate\" or \"mean\"",
                encoder.limit()
            );
            return Err(Refusal::field("context_length_exceeded", format!("input[{i}]"), message));
        }
        of.extend(split.iter().map(|_| i));
        parts.extend(split);
    }
    Ok(Work { served, encoder, parts, of, inputs: texts.len(), base64, dimensions, ignored })
}

/// The texts; those given as tokens are decoded.
fn texts(f: &Fields<'_>, encoder: &TextEncoder) -> Result<Vec<String>, Refusal> {
    let input = f.want("input")?;
    let rows = encoder.model.description.body.vocabulary();
    let decoded = |list: &[Value], path: &str| -> Result<String, Refusal> {
        let ids = ids(list, path, rows)?;
        encoder
            .tokenizer()
            .decode(&ids, true)
            .map_err(|_| Refusal::value(path, format!("`{path}`: the tokens are no text")))
    };
    let list = match input {
        Value::String(text) => return Ok(vec![text.clone()]),
        Value::Array(list) => list,
        other => return Err(wrong("input", "a string, a list of strings, or token ids", other)),
    };
    match list.first() {
        None => Err(Refusal::value("input", "`input`: the list is empty")),
        Some(Value::Number(_)) => Ok(vec![decoded(list, "input")?]),
        Some(_) if list.len() > MOST => {
            Err(Refusal::value("input", format!("`input`: at most {MOST} texts, found {}", list.len())))
        }
        Some(_) => {
            let one = |(i, input): (usize, &Value)| {
                let path = format!("input[{i}]");
                match input {
                    Value::String(text) => Ok(text.clone()),
                    Value::Array(list) => decoded(list, &path),
                    other => Err(wrong(&path, "a string or token ids", other)),
                }
            };
            list.iter().enumerate().map(one).collect()
        }
    }
}

impl Work {
    /// Computes the vectors, in batches between the steps of other requests, and puts the answer together.
    pub(crate) async fn answer(self, jobs: &Jobs) -> Result<Value, Refusal> {
        let tokens: usize = self.parts.iter().map(|part| part.ids.len()).sum();
        let weights: Vec<usize> = self.parts.iter().map(|part| part.ids.len()).collect();
        let parts = Arc::new(self.parts);
        let width = self.encoder.width();
        let mut vectors = vec![0.0f32; parts.len() * width];
        for batch in batches(&parts, BATCH) {
            let (encoder, parts, chosen) = (self.encoder.clone(), parts.clone(), batch.clone());
            let made =
                jobs.run(move || encoder.vectors(&chosen.iter().map(|i| &parts[*i]).collect::<Vec<_>>())).await?;
            for (i, vector) in batch.iter().zip(made.chunks(width)) {
                vectors[i * width..][..width].copy_from_slice(vector);
            }
        }
        if vectors.iter().any(|x| !x.is_finite()) {
            return Err(Refusal::internal());
        }
        let mut data = Vec::with_capacity(self.inputs);
        for input in 0..self.inputs {
            let own: Vec<usize> = (0..self.of.len()).filter(|i| self.of[*i] == input).collect();
            let mut vector = match own[..] {
                [one] => vectors[one * width..][..width].to_vec(),
                _ => mean(&own, &weights, &vectors, width),
            };
            let unit = self.encoder.pipeline.normalizes();
            vector.truncate(self.dimensions.unwrap_or(width));
            if unit && (self.dimensions.is_some() || own.len() > 1) {
                let width = vector.len();
                normalize(&mut vector, width);
            }
            let embedding = if self.base64 {
                let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                Value::from(BASE64_STANDARD.encode(bytes))
            } else {
                Value::from(vector)
            };
            data.push(json!({"object": "embedding", "index": input, "embedding": embedding}));
        }
        Ok(json!({"object": "list", "data": data, "model": self.served.id,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}))
    }
}

/// The mean of vectors, weighted by tokens.
fn mean(own: &[usize], weights: &[usize], vectors: &[f32], width: usize) -> Vec<f32> {
    let total: usize = own.iter().map(|i| weights[*i]).sum();
    let share = |k: usize| own.iter().map(|i| f64::from(vectors[i * width + k]) * weights[*i] as f64).sum::<f64>();
    (0..width).map(|k| (share(k) / total.max(1) as f64) as f32).collect()
}
