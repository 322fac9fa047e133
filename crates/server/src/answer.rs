//! From the events of the scheduler to OpenAI's answers and their chunks.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use longreach_engine::scheduler::{Event, Failure, Wrote};
use longreach_engine::{CallStyle, Ended, Engine};
use serde_json::{Value, json};

use crate::calls::Scanner;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::served::now;
use crate::tell::{Prompt, Tell};

mod shown;

use shown::Shown;
pub(crate) use shown::name;

/// Which endpoint an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `/v1/completions`
    Text,
    /// `/v1/chat/completions`
    Chat,
}

/// How an answer is streamed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streamed {
    /// The last chunk has the usage.
    pub(crate) usage: bool,
    /// Comments say how much of the prompt has been read.
    pub(crate) progress: bool,
}

/// One of the answers.
#[derive(Default)]
struct Choice {
    text: String,
    thinking: String,
    /// Its tokens with log-probabilities that no piece has carried yet; all of them, if nothing is streamed.
    shown: Vec<Shown>,
    /// Code points of the tokens so far.
    characters: usize,
    /// Its tokens that no chunk has carried yet.
    ids: Vec<u32>,
    finish: Option<&'static str>,
    /// The calls of functions in it.
    calls: Option<Scanner>,
    /// Whether its first chunk was sent.
    begun: bool,
    last: Option<Instant>,
}

/// What an answer says about itself.
pub(crate) struct About {
    pub(crate) shape: Shape,
    pub(crate) model: String,
    pub(crate) system: String,
    pub(crate) id: String,
    /// The answers of each prompt.
    pub(crate) n: usize,
    pub(crate) logprobs: bool,
    /// Whether the tokens are told.
    pub(crate) token_ids: bool,
    /// How calls of functions are written, if there may be any.
    pub(crate) calls: Option<CallStyle>,
    /// The documents that it is given from.
    pub(crate) sources: Option<Vec<Value>>,
    pub(crate) stream: Option<Streamed>,
}

/// Puts an answer together.
pub(crate) struct Teller {
    about: About,
    created: u64,
    engine: Engine,
    prompts: Vec<Prompt>,
    choices: Vec<Choice>,
    done: usize,
    metrics: Arc<Metrics>,
    start: Instant,
    cached: Vec<usize>,
    read: Vec<usize>,
    written: usize,
    reasoning: usize,
}

impl Teller {
    pub(crate) fn new(about: About, engine: Engine, prompts: Vec<Prompt>, metrics: Arc<Metrics>) -> Self {
        let mut choices = Vec::new();
        choices.resize_with(prompts.len() * about.n, || Choice {
            calls: about.calls.map(Scanner::new),
            ..Choice::default()
        });
        let (cached, read) = (vec![0; prompts.len()], vec![0; prompts.len()]);
        let mut teller = Self {
            about,
            created: now(),
            engine,
            prompts,
            choices,
            done: 0,
            metrics,
            start: Instant::now(),
            cached,
            read,
            written: 0,
            reasoning: 0,
        };
        teller.echo();
        teller
    }

    /// Answers that repeat their prompts begin with them.
    fn echo(&mut self) {
        for at in 0..self.choices.len() {
            let prompt = &self.prompts[at / self.about.n];
            let Some(text) = prompt.echo.clone() else { continue };
            let first = prompt.ids.first().copied().filter(|_| self.about.logprobs);
            self.choices[at].text = text;
            if let Some(id) = first {
                self.show(at, id, None);
            }
        }
    }

    /// The number of tokens of the prompts that were not read, and the tokens that were written.
    pub(crate) fn tokens(&self) -> [usize; 3] {
        let prompt = self.prompts.iter().map(Prompt::tokens).sum();
        [prompt, self.cached.iter().sum(), self.written]
    }

    fn wrote(&mut self, at: usize, wrote: Wrote) -> Vec<Value> {
        let now = Instant::now();
        match self.choices[at].last.replace(now) {
            None => self.metrics.first(&self.about.model, self.start.elapsed()),
            Some(last) => self.metrics.between(&self.about.model, now - last),
        }
        self.written += 1;
        let choice = &mut self.choices[at];
        if self.about.token_ids {
            choice.ids.push(wrote.id);
        }
        if !wrote.thinking.is_empty()
            || (!choice.thinking.is_empty() && choice.text.is_empty() && wrote.text.is_empty())
        {
            self.reasoning += 1;
        }
        let ends = wrote.text.is_empty() && self.engine.model.description.eos.contains(&wrote.id);
        if let Some(logprob) = wrote.logprob.as_ref().filter(|_| !ends) {
            self.show(at, wrote.id, Some(logprob));
        }
        self.piece(at, &wrote.thinking, [&wrote.text, &wrote.call], false)
    }

    /// Adds a piece to an answer; returns its chunks, if it is streamed.
    fn piece(&mut self, at: usize, thinking: &str, [text, call]: [&str; 2], last: bool) -> Vec<Value> {
        let streams = self.about.stream.is_some();
        let choice = &mut self.choices[at];
        choice.thinking.push_str(thinking);
        let calls = choice.calls.as_mut().map(|calls| calls.push(call)).unwrap_or_default();
        if !streams {
            choice.text.push_str(text);
            return Vec::new();
        }
        let mut chunks = Vec::new();
        let begins = !std::mem::replace(&mut choice.begun, true);
        match self.about.shape {
            Shape::Chat => {
                if begins {
                    chunks.push(self.chunk(at, json!({"role": "assistant", "content": ""}), Value::Null, false));
                }
                if !thinking.is_empty() {
                    let logprobs = self.logprobs(at);
                    chunks.push(self.chunk(at, json!({"reasoning_content": thinking}), logprobs, false));
                }
                if !text.is_empty() || (last && calls.is_empty() && !self.choices[at].shown.is_empty()) {
                    let logprobs = self.logprobs(at);
                    chunks.push(self.chunk(at, json!({"content": text}), logprobs, false));
                }
                for calls in calls {
                    let logprobs = self.logprobs(at);
                    chunks.push(self.chunk(at, json!({"tool_calls": calls}), logprobs, false));
                }
                if last {
                    chunks.push(self.chunk(at, json!({}), Value::Null, true));
                }
            }
            Shape::Text => {
                // What was repeated of the prompt goes with the first piece.
                let text = if begins { std::mem::take(&mut choice.text) + text } else { text.to_owned() };
                if !text.is_empty() || last {
                    let logprobs = self.logprobs(at);
                    chunks.push(self.chunk(at, text.into(), logprobs, last));
                }
            }
        }
        if self.about.sources.is_some() {
            // The numbers of passages are looked for in the whole.
            self.choices[at].text.push_str(text);
        } else if !text.is_empty() {
            // Not kept: that there was text is what counts.
            self.choices[at].text = "…".into();
        }
        if last && let (Some(sources), Some(chunk)) = (self.sources(), chunks.last_mut()) {
            chunk["documents"] = sources;
        }
        if self.about.token_ids
            && let Some(chunk) = chunks.last_mut()
        {
            chunk["choices"][0]["token_ids"] = std::mem::take(&mut self.choices[at].ids).into();
        }
        chunks
    }

    /// A chunk of a stream.
    fn chunk(&self, at: usize, piece: Value, logprobs: Value, last: bool) -> Value {
        let finish = self.choices[at].finish.filter(|_| last);
        let choice = match self.about.shape {
            Shape::Chat => json!({"index": at, "delta": piece, "logprobs": logprobs, "finish_reason": finish}),
            Shape::Text => json!({"index": at, "text": piece, "logprobs": logprobs, "finish_reason": finish}),
        };
        let mut chunk = self.frame(json!([choice]), true);
        if self.about.stream.is_some_and(|stream| stream.usage) {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn frame(&self, choices: Value, chunk: bool) -> Value {
        let object = match (self.about.shape, chunk) {
            (Shape::Text, _) => "text_completion",
            (Shape::Chat, false) => "chat.completion",
            (Shape::Chat, true) => "chat.completion.chunk",
        };
        json!({"id": self.about.id, "object": object, "created": self.created, "model": self.about.model,
            "system_fingerprint": self.about.system, "choices": choices})
    }

    /// The documents, and which passages the answers name by their numbers.
    fn sources(&self) -> Option<Value> {
        let named = |number: &Value| self.choices.iter().any(|choice| choice.text.contains(&format!("[{number}]")));
        let told = |source: &Value| {
            let mut told = source.clone();
            if source.get("text").is_some() {
                told["cited"] = named(&source["number"]).into();
            }
            told
        };
        self.about.sources.as_ref().map(|sources| sources.iter().map(told).collect())
    }

    fn usage(&self) -> Value {
        let [prompt, cached, written] = self.tokens();
        json!({"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning}})
    }
}

impl Tell for Teller {
    fn tell(&mut self, prompt: usize, event: Event) -> Result<Vec<Value>, Refusal> {
        let first = prompt * self.about.n;
        match event {
            Event::Started { cached } => {
                self.cached[prompt] = cached;
                self.metrics.queued(&self.about.model, self.start.elapsed());
            }
            Event::Read { tokens } => self.read[prompt] = tokens,
            Event::Scored(scored) => {
                for logprob in scored {
                    (first..first + self.about.n).for_each(|at| self.show(at, logprob.id, Some(&logprob)));
                }
            }
            Event::Wrote(wrote) => return Ok(self.wrote(first + wrote.choice, wrote)),
            Event::Ended { choice, why, thinking, text, call } => {
                let at = first + choice;
                let called = self.choices[at].calls.as_ref().is_some_and(Scanner::any);
                self.choices[at].finish = Some(match why {
                    Ended::Stopped if called => "tool_calls",
                    Ended::Stopped => "stop",
                    _ => "length",
                });
                return Ok(self.piece(at, &thinking, [&text, &call], true));
            }
            Event::Failed(failure) => {
                if !matches!(failure, Failure::Cancelled | Failure::Closing) {
                    self.choices.iter_mut().for_each(|choice| choice.finish = choice.finish.or(Some("error")));
                }
                return Err(failure.into());
            }
            Event::State(_) => {}
            Event::Done => self.done += 1,
        }
        Ok(Vec::new())
    }

    fn is_done(&self) -> bool {
        self.done == self.prompts.len()
    }

    fn comment(&self) -> Bytes {
        let of: usize = self.prompts.iter().map(Prompt::tokens).sum();
        let read: usize = self.read.iter().sum();
        match self.about.stream {
            Some(Streamed { progress: true, .. }) if read < of => Bytes::from(format!(": read {read} of {of}\n\n")),
            _ => Bytes::from_static(b": ping\n\n"),
        }
    }

    fn last_chunk(&self) -> Option<Value> {
        self.about.stream.filter(|stream| stream.usage)?;
        let mut chunk = self.frame(json!([]), true);
        chunk["usage"] = self.usage();
        Some(chunk)
    }

    fn whole(mut self: Box<Self>) -> Value {
        let sources = self.sources();
        let mut choices = Vec::new();
        for at in 0..self.choices.len() {
            let logprobs = self.logprobs(at);
            let Choice { text, thinking, finish, ids, calls, .. } = std::mem::take(&mut self.choices[at]);
            // The metrics count it when this is dropped.
            self.choices[at].finish = finish;
            let mut choice = match self.about.shape {
                Shape::Text => json!({"index": at, "text": text, "logprobs": logprobs, "finish_reason": finish}),
                Shape::Chat => {
                    let mut message = json!({"role": "assistant", "content": &text, "refusal": null});
                    if let Some(calls) = calls.filter(Scanner::any) {
                        message["tool_calls"] = calls.told();
                        if text.is_empty() {
                            message["content"] = Value::Null;
                        }
                    }
                    if !thinking.is_empty() {
                        message["reasoning_content"] = thinking.into();
                    }
                    json!({"index": at, "message": message, "logprobs": logprobs, "finish_reason": finish})
                }
            };
            if self.about.token_ids {
                choice["token_ids"] = ids.into();
            }
            choices.push(choice);
        }
        let mut answer = self.frame(choices.into(), false);
        answer["usage"] = self.usage();
        if let Some(sources) = sources {
            answer["documents"] = sources;
        }
        answer
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        let reasons = self.choices.iter().map(|choice| choice.finish.unwrap_or("cancelled"));
        self.metrics.finished(&self.about.model, reasons, self.tokens(), self.start.elapsed());
    }
}
