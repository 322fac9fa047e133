//! Grammars: what the text of an answer must be, such as JSON of a schema or the call of a function.
//!
//! A [`Grammar`] is compiled once and says, token by token, which tokens of a model's vocabulary may follow ([llguidance](https://github.com/guidance-ai/llguidance)
//! makes these masks). The scheduler samples from them alone, so that a finished answer is a text of the grammar, whatever the model would prefer.
//!
//! ```
//! use longreach_engine::{Engine, Form};
//!
//! let engine = Engine::embedded(None)?;
//! let schema = serde_json::json!({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"], "additionalProperties": false});
//! let grammar = engine.grammar(&Form::Schema(schema))?;
//! assert!(grammar.accepts(&engine, r#"{"age":5}"#)?);
//! assert!(!grammar.accepts(&engine, r#"{"age":"five"}"#)?);
//! # Ok::<(), longreach_engine::Error>(())
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::{Engine, Error};

mod calls;
mod mask;
mod schema;
mod vocabulary;

pub use calls::{CallStyle, Calls, Function};
pub(crate) use mask::{Mask, Masked};
pub(crate) use vocabulary::Vocabulary;

/// The longest source of a grammar or schema in bytes.
pub const LONGEST_GRAMMAR: usize = 64 << 10;

/// What the text of an answer must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// A JSON object.
    Object,
    /// JSON that fits a schema, without white space. A keyword that is not supported is an error.
    Schema(Value),
    /// A text of a grammar in Lark's notation, as llguidance extends it.
    Lark(String),
    /// A text that the regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Calls of functions and nothing else.
    Calls(Calls),
}

/// A compiled grammar of a model's vocabulary. A clone is the same grammar.
#[derive(Clone)]
pub struct Grammar {
    /// At the beginning of a text.
    start: Arc<Mutex<Matcher>>,
    vocabulary: Arc<Vocabulary>,
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Grammar")
    }
}

fn wrong(message: impl Into<String>) -> Error {
    Error::Grammar { at: String::new(), message: message.into() }
}

impl Engine {
    /// Compiles a grammar for the vocabulary of the model. The time is bounded: 64 KiB of source, a depth of 32 and a limit on the states of its automata,
    /// about a second at most.
    ///
    /// An error if the form is invalid, too large, or uses what is not supported ([`Error::Grammar`], with the place in a schema), and if the model has no
    /// tokenizer.
    pub fn grammar(&self, form: &Form) -> Result<Grammar, Error> {
        let vocabulary = self.words()?;
        let source = source(form)?;
        let matcher = Matcher::new(vocabulary.factory.create_parser(source));
        if let Some(message) = matcher.get_error() {
            return Err(wrong(said(&message)));
        }
        let grammar = Grammar { start: Arc::new(Mutex::new(matcher)), vocabulary };
        // A grammar without any text is found here, and not in the middle of an answer.
        grammar.begin().next().map_err(|_| wrong("no text satisfies it, or it is too complex"))?;
        Ok(grammar)
    }
}

/// The first line of a message, without the parts of a source that it may repeat.
fn said(message: &str) -> String {
    message.lines().next().unwrap_or_default().chars().take(300).collect()
}

/// The source of a form in the terms of llguidance.
fn source(form: &Form) -> Result<TopLevelGrammar, Error> {
    let bounded = |text: &str| match text.len() {
        n if n > LONGEST_GRAMMAR => Err(wrong(format!("{n} bytes: at most {LONGEST_GRAMMAR} are taken"))),
        _ => Ok(()),
    };
    Ok(match form {
        Form::Object => TopLevelGrammar::from_json_schema(compact(json!({"type": "object"}))),
        Form::Schema(value) => {
            schema::check(value)?;
            TopLevelGrammar::from_json_schema(compact(value.clone()))
        }
        Form::Lark(text) => {
            bounded(text)?;
            TopLevelGrammar::from_lark(text.clone())
        }
        Form::Regex(text) => {
            bounded(text)?;
            TopLevelGrammar::from_regex(text)
        }
        Form::Choice(texts) => {
            bounded(&texts.concat())?;
            if texts.is_empty() || texts.iter().any(String::is_empty) {
                return Err(wrong("want one text or more, and none that is empty"));
            }
            let texts: Vec<String> = texts.iter().map(|text| Value::from(text.as_str()).to_string()).collect();
            TopLevelGrammar::from_lark(format!("start: {}", texts.join(" | ")))
        }
        Form::Calls(calls) => TopLevelGrammar::from_lark(calls.lark()?),
    })
}

/// A schema whose JSON has no white space. A schema may be `true`.
fn compact(schema: Value) -> Value {
    spaced(schema, ",", ":")
}

/// A schema whose JSON has these separators, as regular expressions.
fn spaced(schema: Value, item: &str, key: &str) -> Value {
    let mut map = match schema {
        Value::Object(map) => map,
        // `false` is not satisfied by anything; `true` by everything.
        Value::Bool(false) => json!({"enum": []}).as_object().cloned().unwrap_or_default(),
        _ => serde_json::Map::new(),
    };
    let options = json!({"item_separator": item, "key_separator": key, "whitespace_flexible": false});
    map.insert("x-guidance".into(), options);
    map.into()
}

impl Grammar {
    /// A text of this grammar, at its beginning.
    pub(crate) fn begin(&self) -> Masked {
        let start = self.start.lock().unwrap_or_else(PoisonError::into_inner);
        Masked::new(start.deep_clone(), self.vocabulary.clone())
    }

    /// Whether a text, as the model's tokenizer divides it, is a whole text of this grammar.
    pub fn accepts(&self, engine: &Engine, text: &str) -> Result<bool, Error> {
        let mut masked = self.begin();
        for id in engine.tokenizer()?.encode(text)? {
            if !masked.take(id) {
                return Ok(false);
            }
        }
        Ok(masked.is_whole())
    }
}

/// The factory of a vocabulary's parsers, with limits for grammars of clients.
fn factory(environment: &llguidance::toktrie::TokEnv) -> Result<ParserFactory, Error> {
    let mut factory = ParserFactory::new_simple(environment).map_err(|e| wrong(said(&e.to_string())))?;
    factory.quiet();
    let limits = factory.limits_mut();
    // A state takes up to 2 kB.
    limits.max_lexer_states = 10_000;
    limits.max_grammar_size = 100_000;
    // Errors do not repeat what was written.
    limits.verbose_errors = false;
    Ok(factory)
}
