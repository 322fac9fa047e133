//! What an answer must be: `response_format` and `grammar`.

use std::collections::VecDeque;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use longreach_engine::{Engine, Error, Form, Grammar};
use serde_json::{Value, json};

use crate::fields::{Fields, wrong};
use crate::refusal::Refusal;

/// How long a grammar may take to compile.
const LONGEST: Duration = Duration::from_secs(2);
/// Grammars that are kept, since clients send the same ones again.
const KEPT: usize = 64;

/// A grammar to compile, and where it comes out.
type Job = (Engine, Form, Sender<Result<Grammar, Error>>);

/// Compiles grammars on a thread beside the engine's, and keeps the last ones.
pub(crate) struct Grammars {
    jobs: Mutex<Option<Sender<Job>>>,
    kept: Mutex<VecDeque<(blake3::Hash, Grammar)>>,
}

impl Grammars {
    pub(crate) fn new() -> Self {
        Self { jobs: Mutex::new(None), kept: Mutex::default() }
    }

    /// The thread, which begins with the first grammar and ends with the server.
    fn thread(&self) -> Sender<Job> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.get_or_insert_with(|| {
            let (sender, received) = channel::<Job>();
            let work = move || {
                for (engine, form, done) in received {
                    // A fault in it drops the end that it would come out of. Nobody may wait any more.
                    let compiled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| engine.grammar(&form)));
                    compiled.ok().and_then(|compiled| done.send(compiled).ok());
                }
            };
            std::thread::Builder::new().name("grammars".into()).spawn(work).expect("a thread");
            sender
        })
        .clone()
    }

    /// Compiles a form for a model; `param` is the field that it comes from.
    pub(crate) fn compile(&self, engine: &Engine, model: &str, form: Form, param: &str) -> Result<Grammar, Refusal> {
        let key = blake3::hash(format!("{model}\n{form:?}").as_bytes());
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept.iter().position(|(hash, _)| *hash == key)
            && let Some(found) = kept.remove(at)
        {
            kept.push_back(found.clone());
            return Ok(found.1);
        }
        drop(kept);
        engine.prepare_grammars()?;
        let (done, compiled) = channel();
        self.thread().send((engine.clone(), form, done)).map_err(|_| Refusal::internal())?;
        let refused = |message: String| Refusal::field("invalid_schema", param, message);
        let grammar = match compiled.recv_timeout(LONGEST) {
            Ok(Ok(grammar)) => grammar,
            Ok(Err(Error::Grammar { at, message })) => {
                let param = format!("{param}{at}");
                return Err(Refusal::field("invalid_schema", &param, format!("`{param}`: {message}")));
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                return Err(refused(format!("`{param}`: it takes longer than {} s to compile", LONGEST.as_secs())));
            }
            Err(_) => return Err(refused(format!("`{param}`: it cannot be compiled"))),
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back((key, grammar.clone()));
        Ok(grammar)
    }
}

/// The form that a request wants, with the path of its field; `None` for any text.
pub(crate) fn form(f: &Fields<'_>) -> Result<Option<(Form, &'static str)>, Refusal> {
    let format = response_format(f)?;
    let grammar = grammar(f)?;
    match (format, grammar) {
        (Some(_), Some(_)) => Err(Refusal::value("grammar", "`grammar` and `response_format`: want one of them")),
        (format, grammar) => Ok(format.or(grammar)),
    }
}

fn response_format(f: &Fields<'_>) -> Result<Option<(Form, &'static str)>, Refusal> {
    let Some(format) = f.object("response_format")? else { return Ok(None) };
    format.unknown(&["type", "json_schema"], false)?;
    let kind = format.want("type")?;
    match kind.as_str().ok_or_else(|| wrong("response_format.type", "a string", kind))? {
        "text" => Ok(None),
        "json_object" => Ok(Some((Form::Object, "response_format"))),
        "json_schema" => {
            format.want("json_schema")?;
            let Some(schema) = format.object("json_schema")? else { return Ok(None) };
            schema.unknown(&["name", "description", "schema", "strict"], false)?;
            schema.text("name")?;
            schema.flag("strict")?;
            let schema = schema.want("schema")?;
            Ok(Some((Form::Schema(schema.clone()), "response_format.json_schema.schema")))
        }
        other => {
            let other: String = other.chars().take(40).collect();
            let message = format!("`response_format.type`: want text, json_object or json_schema, found {other}");
            Err(Refusal::value("response_format.type", message))
        }
    }
}

fn grammar(f: &Fields<'_>) -> Result<Option<(Form, &'static str)>, Refusal> {
    let Some(grammar) = f.object("grammar")? else { return Ok(None) };
    grammar.unknown(&["type", "value"], false)?;
    let (kind, value) = (grammar.want("type")?, grammar.want("value")?);
    let kind = kind.as_str().ok_or_else(|| wrong("grammar.type", "a string", kind))?;
    let text = || value.as_str().map(str::to_owned).ok_or_else(|| wrong("grammar.value", "a string", value));
    let form = match kind {
        "lark" => Form::Lark(text()?),
        "regex" => Form::Regex(text()?),
        "choice" => {
            let list = value.as_array().ok_or_else(|| wrong("grammar.value", "a list of strings", value))?;
            let one = |(i, text): (usize, &Value)| {
                let path = format!("grammar.value[{i}]");
                text.as_str().map(str::to_owned).ok_or_else(|| wrong(&path, "a string", text))
            };
            Form::Choice(list.iter().enumerate().map(one).collect::<Result<_, _>>()?)
        }
        other => {
            let other: String = other.chars().take(40).collect();
            return Err(Refusal::value(
                "grammar.type",
                format!("`grammar.type`: want lark, regex or choice, found {other}"),
            ));
        }
    };
    Ok(Some((form, "grammar.value")))
}

/// Refuses fields that would cut an answer that must be whole.
pub(crate) fn refuse_cuts(f: &Fields<'_>, because: &str) -> Result<(), Refusal> {
    let cuts =
        [("stop", json!([])), ("stop_token_ids", json!([])), ("ignore_eos", false.into()), ("min_tokens", 0.into())];
    for (name, neutral) in cuts {
        if f.get(name).is_some_and(|value| *value != neutral) {
            let message = format!("`{name}`: not with `{because}`, whose answer is whole only at its own end");
            return Err(Refusal::unsupported(name, message));
        }
    }
    Ok(())
}
