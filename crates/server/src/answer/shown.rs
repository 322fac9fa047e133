//! Tokens and their log-probabilities, as answers show them.

use longreach_engine::Logprob;
use serde_json::{Value, json};

use super::{Shape, Teller};

/// A token as answers show it.
pub(super) struct Shown {
    token: String,
    bytes: Vec<u8>,
    /// `None` for the first token of a text.
    logprob: Option<f64>,
    top: Vec<(String, Vec<u8>, f64)>,
    /// Where it begins, in code points of the answer.
    offset: usize,
}

/// The number that is written for −∞.
const LEAST: f64 = -9999.0;

impl Teller {
    /// Notes a token with its log-probabilities.
    pub(super) fn show(&mut self, at: usize, id: u32, logprob: Option<&Logprob>) {
        let Ok(tokenizer) = self.engine.tokenizer() else { return };
        let named = |id: u32| {
            let bytes = tokenizer.bytes(id);
            (name(&bytes), bytes)
        };
        let (token, bytes) = named(id);
        let top = logprob.iter().flat_map(|l| &l.top).map(|(id, log)| {
            let (token, bytes) = named(*id);
            (token, bytes, log.max(LEAST))
        });
        let top = top.collect();
        let choice = &mut self.choices[at];
        // A token that begins within a character is where that begins.
        let begins = |byte: &u8| byte & 0xc0 != 0x80;
        let within = bytes.first().is_some_and(|byte| !begins(byte));
        let offset = choice.characters.saturating_sub(usize::from(within));
        if tokenizer.shows(id) {
            choice.characters += bytes.iter().filter(|byte| begins(byte)).count();
        }
        let logprob = logprob.map(|l| l.logprob.max(LEAST));
        choice.shown.push(Shown { token, bytes, logprob, top, offset });
    }

    /// The log-probabilities that were noted, which go with the piece that is sent; null if they were not asked for.
    pub(super) fn logprobs(&mut self, at: usize) -> Value {
        if !self.about.logprobs {
            return Value::Null;
        }
        let shown = std::mem::take(&mut self.choices[at].shown);
        match self.about.shape {
            Shape::Chat => {
                let one = |(token, bytes, logprob): (&str, &[u8], f64)| json!({"token": token, "logprob": logprob, "bytes": bytes});
                let content: Vec<Value> = shown
                    .iter()
                    .map(|s| {
                        let mut token = one((&s.token, &s.bytes, s.logprob.unwrap_or(0.0)));
                        token["top_logprobs"] = s.top.iter().map(|(t, b, l)| one((t, b, *l))).collect();
                        token
                    })
                    .collect();
                json!({"content": content, "refusal": null})
            }
            Shape::Text => {
                let top = |s: &Shown| {
                    // Tokens of the same bytes share a name; the most probable is kept.
                    let mut map = serde_json::Map::new();
                    for (token, _, logprob) in &s.top {
                        map.entry(token.clone()).or_insert_with(|| json!(logprob));
                    }
                    s.logprob.map_or(Value::Null, |_| map.into())
                };
                json!({
                    "tokens": shown.iter().map(|s| s.token.as_str()).collect::<Vec<_>>(),
                    "token_logprobs": shown.iter().map(|s| s.logprob).collect::<Vec<_>>(),
                    "top_logprobs": shown.iter().map(top).collect::<Vec<_>>(),
                    "text_offset": shown.iter().map(|s| s.offset).collect::<Vec<_>>(),
                })
            }
        }
    }
}

/// How a token is written: its text, or `bytes:\xe2\x82` if its bytes are no text by themselves.
pub(crate) fn name(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |name, byte| name + &format!("\\x{byte:02x}")),
    }
}
