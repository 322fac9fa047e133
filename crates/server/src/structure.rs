//! `response_format`: answers that fit a JSON schema. llguidance says which tokens may follow.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use longreach_engine::Engine;
use longreach_engine::scheduler::Constraint;
use serde_json::{Value, json};
use toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use crate::asked::Asked;
use crate::fields::{Fields, wrong};
use crate::refusal::Refusal;

/// The longest schema in bytes, its greatest depth, and the most states of its lexer, each of which takes one or two kilobytes.
const LONGEST: usize = 64 << 10;
const DEEPEST: usize = 32;
const STATES: usize = 10_000;

/// The form of answers: a compiled schema.
pub(crate) struct Form(Matcher);

impl Form {
    /// A constraint at the beginning of an answer.
    pub(crate) fn constraint(&self) -> Box<dyn Constraint> {
        Box::new(Schema(self.0.deep_clone()))
    }
}

/// Reads `response_format`; `None` if it asks for text.
pub(crate) fn form(f: &Fields<'_>, asked: &Asked) -> Result<Option<Form>, Refusal> {
    let Some(format) = f.object("response_format")? else { return Ok(None) };
    format.unknown(&["type", "json_schema"], false)?;
    let kind = format.want("type")?;
    let schema = match kind.as_str().ok_or_else(|| wrong("response_format.type", "a string", kind))? {
        "text" => return Ok(None),
        "json_object" => json!({"type": "object"}),
        "json_schema" => {
            let path = "response_format.json_schema";
            let inner = Fields::of(format.want("json_schema")?, path)?;
            inner.unknown(&["name", "description", "schema", "strict"], false)?;
            let schema = inner.want("schema")?;
            if !schema.is_object() {
                return Err(wrong(&inner.path("schema"), "an object", schema));
            }
            schema.clone()
        }
        other => {
            let other: String = other.chars().take(40).collect();
            let message = format!("`response_format.type`: want text, json_object or json_schema, found {other}");
            return Err(Refusal::value("response_format.type", message));
        }
    };
    compiled(schema, asked).map(Some)
}

fn compiled(mut schema: Value, asked: &Asked) -> Result<Form, Refusal> {
    let bad = |message: String| {
        // The messages of the compiler may hold all of the schema.
        let message: String = message.chars().take(500).collect();
        Refusal::field("invalid_schema", "response_format", format!("`response_format`: {message}"))
    };
    let (length, depth) = (schema.to_string().len(), depth(&schema));
    if length > LONGEST || depth > DEEPEST {
        return Err(bad(format!("the schema has {length} bytes and is {depth} deep: at most {LONGEST} and {DEEPEST}")));
    }
    // No white space, in which a small model could go on for ever; and what is not known is an error.
    schema["x-guidance"] = json!({"whitespace_flexible": false, "lenient": false, "item_separator": ",", "key_separator": ":"});
    let factory = asked.served.grammars.get_or_init(|| factory(&asked.engine));
    let factory = factory.as_ref().ok_or_else(|| bad("the vocabulary of the model is not supported".into()))?;
    let parser = factory.create_parser(TopLevelGrammar::from_json_schema(schema)).map_err(|e| bad(e.to_string()))?;
    let mut matcher = Matcher::new(Ok(parser));
    match matcher.compute_mask_or_eos() {
        Ok(_) => Ok(Form(matcher)),
        Err(e) => Err(bad(e.to_string())),
    }
}

/// How deep a value is nested.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// What compiles grammars over the vocabulary of a model; `None` if it has no tokenizer.
fn factory(engine: &Engine) -> Option<ParserFactory> {
    let tokenizer = engine.tokenizer().ok()?;
    let rows = engine.model.decoder.vocabulary() as u32;
    let mut words: Vec<Vec<u8>> = (0..rows)
        .map(|id| match tokenizer.shows(id) {
            true => tokenizer.bytes(id),
            // A special token stands for no text: a byte that no text has begins its name.
            false => [&[0xff][..], &tokenizer.bytes(id), &id.to_le_bytes()].concat(),
        })
        .collect();
    let end = engine.model.description.eos.iter().copied().find(|id| *id < rows);
    if end.is_none() {
        // A model whose texts do not end gets a token that is never sampled.
        words.push(b"\xff<end>".to_vec());
    }
    let info = TokRxInfo::new(words.len() as u32, end.unwrap_or(rows));
    let env: TokEnv = Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words)));
    let mut factory = ParserFactory::new_simple(&env).ok()?;
    factory.quiet();
    let limits = factory.limits_mut();
    (limits.max_lexer_states, limits.verbose_errors) = (STATES, false);
    Some(factory)
}

/// A schema and how much of an answer was read.
struct Schema(Matcher);

impl Constraint for Schema {
    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(Self(self.0.deep_clone()))
    }

    fn mask(&mut self, logits: &mut [f32]) -> Result<(), String> {
        let allowed = self.0.compute_mask_or_eos().map_err(|e| e.to_string())?;
        for (id, x) in logits.iter_mut().enumerate() {
            if !allowed.is_allowed(id as u32) {
                *x = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    fn accept(&mut self, id: u32) -> Result<bool, String> {
        self.0.consume_token(id).map_err(|e| e.to_string())?;
        Ok(self.0.is_stopped())
    }
}
