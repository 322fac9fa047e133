//! The fields that completions and chat share.

use std::sync::Arc;

use hyper::StatusCode;
use longreach_engine::scheduler::{Reuse, Structure};
use longreach_engine::{CallStyle, Engine, Sampling};
use serde_json::Value;

use crate::answer::Streamed;
use crate::fields::{Fields, wrong};
use crate::ids::fresh_number;
use crate::refusal::Refusal;
use crate::schema;
use crate::served::{Models, Purpose, Served, sampling};
use crate::states::{Mine, Named};
use crate::structure::{form, refuse_cuts};

/// The most answers to a prompt, prompts times answers, and stop strings.
const MOST_CHOICES: i64 = 16;
pub(crate) const MOST_ANSWERS: usize = 256;
const MOST_STOPS: usize = 16;
const LONGEST_STOP: usize = 256;
const LONGEST_SALT: usize = 256;
const MOST_BIASES: usize = 1024;
pub(crate) const MOST_LOGPROBS: i64 = 20;

/// What a request asks for.
pub(crate) struct Asked {
    pub(crate) served: Arc<Served>,
    pub(crate) engine: Engine,
    /// The number of the model in the scheduler.
    pub(crate) at: usize,
    pub(crate) n: usize,
    pub(crate) sampling: Sampling,
    pub(crate) least: usize,
    pub(crate) ends: Vec<u32>,
    pub(crate) stops: Vec<String>,
    pub(crate) keeps_stop: bool,
    /// What an answer must be.
    pub(crate) structure: Structure,
    pub(crate) stream: Option<Streamed>,
    pub(crate) reuse: Reuse,
    /// Divides the kept states.
    pub(crate) salt: String,
    /// The state that the prompts go on behind.
    pub(crate) state: Option<Arc<Named>>,
    /// Whether the tokens of answers are told.
    pub(crate) token_ids: bool,
    /// Fields that have no effect.
    pub(crate) ignored: Vec<String>,
}

impl Asked {
    /// Reads the shared fields. `ignored` are those that are unknown.
    pub(crate) fn read(
        f: &Fields<'_>,
        models: &Models,
        mine: &Mine,
        mut ignored: Vec<String>,
    ) -> Result<Self, Refusal> {
        let state = f.text("state")?.map(|id| mine.find(id)).transpose()?;
        let served = match (f.text("model")?, &state) {
            (None, Some(state)) => state.served.clone(),
            (name, _) => models.find(name, |purpose| matches!(purpose, Purpose::Write { .. }))?,
        };
        if let Some(state) = state.as_ref().filter(|state| state.served.id != served.id) {
            let message = format!("the state is of the model `{}`, not of `{}`", state.served.id, served.id);
            let refusal = Refusal::new(StatusCode::CONFLICT, "state_mismatch", message);
            return Err(Refusal { param: Some("state".into()), ..refusal });
        }
        let Purpose::Write { engine, at } = served.purpose.clone() else { return Err(Refusal::internal()) };
        ignored.extend(schema::without_effect().filter(|name| f.get(name).is_some()).map(str::to_owned));
        let n = f.whole("n", 1..=MOST_CHOICES)?.unwrap_or(1) as usize;
        let mut ends = engine.model.description.eos.clone();
        if f.flag("ignore_eos")?.unwrap_or(false) {
            ends.clear();
        }
        if let Some(list) = f.list("stop_token_ids")? {
            if list.len() > MOST_BIASES {
                return Err(Refusal::value(
                    "stop_token_ids",
                    format!("`stop_token_ids`: at most {MOST_BIASES}, found {}", list.len()),
                ));
            }
            ends.extend(crate::fields::ids(list, "stop_token_ids", engine.model.decoder.vocabulary())?);
        }
        let (mut stops, mut structure) = (stops(f, &engine)?, Structure::None);
        if let Some((form, param)) = form(f)? {
            refuse_cuts(f, param.split('.').next().unwrap_or(param))?;
            structure = Structure::Grammar(models.grammars.compile(&engine, &served.id, form, param)?);
            stops.clear();
        }
        let reuse = if f.flag("cache_prompt")?.unwrap_or(true) { Reuse::Kept } else { Reuse::None };
        let salt = f.text("cache_salt")?.unwrap_or_default();
        if salt.len() > LONGEST_SALT {
            let message = format!("`cache_salt`: at most {LONGEST_SALT} bytes, found {}", salt.len());
            return Err(Refusal::value("cache_salt", message));
        }
        Ok(Self {
            salt: salt.to_owned(),
            state,
            token_ids: f.flag("return_token_ids")?.unwrap_or(false),
            sampling: sampled(f, &engine)?,
            least: f.whole("min_tokens", 0..=1 << 20)?.unwrap_or(0) as usize,
            stops,
            keeps_stop: f.flag("include_stop_str_in_output")?.unwrap_or(false),
            structure,
            stream: stream(f)?,
            served,
            engine,
            at,
            n,
            ends,
            reuse,
            ignored,
        })
    }

    /// How an answer writes calls of functions, if it may have any.
    pub(crate) fn style(&self) -> Option<CallStyle> {
        match &self.structure {
            Structure::Text { .. } | Structure::Calls(_) => Some(CallStyle::of(self.engine.chat_template().ok())),
            Structure::None | Structure::Grammar(_) => None,
        }
    }

    /// The most tokens of an answer to a prompt of `prompt` tokens, if `asked` are wanted. An error if the model has no room for them.
    pub(crate) fn room(
        &self,
        asked: Option<usize>,
        default: usize,
        prompt: usize,
        param: &str,
    ) -> Result<usize, Refusal> {
        let Some(longest) = self.engine.longest() else { return Ok(asked.unwrap_or(default)) };
        let left = longest.saturating_sub(prompt);
        let refuse = |what: String| {
            let message = format!("the prompt has {prompt} tokens{what}, but the model reads at most {longest}");
            Refusal::field("context_length_exceeded", param, message)
        };
        match asked {
            _ if prompt > longest => Err(refuse(String::new())),
            Some(asked) if asked > left => Err(refuse(format!(" and `{param}` asks for {asked} more"))),
            Some(asked) => Ok(asked),
            None if left == 0 => Err(refuse(", which leaves no room for an answer".into())),
            None => Ok(default.min(left)),
        }
    }
}

/// The sampling options.
fn sampled(f: &Fields<'_>, engine: &Engine) -> Result<Sampling, Refusal> {
    let s = sampling(engine);
    let mut bias = s.bias.clone();
    if let Some(map) = f.get("logit_bias") {
        let map = map.as_object().ok_or_else(|| wrong("logit_bias", "an object", map))?;
        if map.len() > MOST_BIASES {
            return Err(Refusal::value(
                "logit_bias",
                format!("`logit_bias`: at most {MOST_BIASES} tokens, found {}", map.len()),
            ));
        }
        let vocabulary = engine.model.decoder.vocabulary();
        for (id, by) in map {
            let path = format!("logit_bias.{}", id.chars().take(40).collect::<String>());
            let token = id.parse::<u32>().ok().filter(|id| (*id as usize) < vocabulary).ok_or_else(|| {
                Refusal::field(
                    "token_out_of_range",
                    &path,
                    format!("`{path}`: want a token id from 0 to {}", vocabulary.saturating_sub(1)),
                )
            })?;
            let number = by.as_f64().ok_or_else(|| wrong(&path, "a number", by))?;
            if !(-100.0..=100.0).contains(&number) {
                return Err(Refusal::value(&path, format!("`{path}`: want -100 to 100, found {number}")));
            }
            bias.push((token, number as f32));
        }
    }
    let above = |name: &str, value: Option<f32>| match value {
        Some(0.0) => Err(Refusal::value(name, format!("`{name}`: want above 0, found 0"))),
        value => Ok(value),
    };
    Ok(Sampling {
        temperature: f.number("temperature", 0.0..=2.0)?.unwrap_or(s.temperature),
        top_p: above("top_p", f.number("top_p", 0.0..=1.0)?)?.unwrap_or(s.top_p),
        top_k: f.whole("top_k", -1..=1 << 30)?.map_or(s.top_k, |k| k.max(0) as usize),
        min_p: f.number("min_p", 0.0..=1.0)?.unwrap_or(s.min_p),
        typical_p: above("typical_p", f.number("typical_p", 0.0..=1.0)?)?.unwrap_or(s.typical_p),
        repetition_penalty: above("repetition_penalty", f.number("repetition_penalty", 0.0..=10.0)?)?
            .unwrap_or(s.repetition_penalty),
        presence_penalty: f.number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        frequency_penalty: f.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        seed: seed(f)?,
        bias,
        ..s
    })
}

/// The seed: any integer of 64 bits, signed or not, or a new one.
fn seed(f: &Fields<'_>) -> Result<u64, Refusal> {
    match f.get("seed") {
        None => Ok(fresh_number()),
        Some(value) => {
            let number = value.as_u64().or_else(|| value.as_i64().map(|seed| seed as u64));
            number.ok_or_else(|| wrong("seed", "an integer of 64 bits", value))
        }
    }
}

/// The stop strings.
fn stops(f: &Fields<'_>, engine: &Engine) -> Result<Vec<String>, Refusal> {
    let list = match f.get("stop") {
        None => return Ok(engine.model.generation.stops.clone()),
        Some(Value::String(one)) => vec![Value::String(one.clone())],
        Some(Value::Array(list)) => list.clone(),
        Some(other) => return Err(wrong("stop", "a string or a list of strings", other)),
    };
    if list.len() > MOST_STOPS {
        return Err(Refusal::value("stop", format!("`stop`: at most {MOST_STOPS} strings, found {}", list.len())));
    }
    let read = |(i, stop): (usize, &Value)| {
        let path = format!("stop[{i}]");
        let text = stop.as_str().ok_or_else(|| wrong(&path, "a string", stop))?;
        match text.len() {
            1..=LONGEST_STOP => Ok(text.to_owned()),
            n => Err(Refusal::value(&path, format!("`{path}`: want 1 to {LONGEST_STOP} bytes, found {n}"))),
        }
    };
    list.iter().enumerate().map(read).collect()
}

fn stream(f: &Fields<'_>) -> Result<Option<Streamed>, Refusal> {
    let streams = f.flag("stream")?.unwrap_or(false);
    let Some(options) = f.object("stream_options")? else {
        return Ok(streams.then_some(Streamed { usage: false, progress: false }));
    };
    if !streams {
        return Err(Refusal::value("stream_options", "`stream_options`: only with `stream: true`"));
    }
    options.unknown(&["include_usage", "progress", "include_obfuscation"], false)?;
    let flag = |name: &str| options.flag(name).map(|flag| flag.unwrap_or(false));
    Ok(Some(Streamed { usage: flag("include_usage")?, progress: flag("progress")? }))
}

/// Refuses fields that OpenAI documents and this server has not, unless their value changes nothing.
pub(crate) fn refuse(f: &Fields<'_>, fields: &[(&str, &[Value])]) -> Result<(), Refusal> {
    for (name, neutral) in fields {
        if let Some(value) = f.get(name)
            && !neutral.contains(value)
        {
            return Err(Refusal::unsupported(*name, format!("`{name}` is not supported by this server")));
        }
    }
    Ok(())
}
