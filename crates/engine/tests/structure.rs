//! Answers that must be of a grammar are, whatever the model would prefer.

use std::sync::mpsc::channel;
use std::time::Duration;

use longreach_engine::scheduler::{Event, Failure, Limits, Scheduler, Structure};
use longreach_engine::{CallStyle, Calls, Ended, Engine, Error, Form, Function, Sampling};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

/// An answer: its text, its calls, its tokens and why it ended.
type Told = (String, String, Vec<u32>, Option<Ended>);

/// Asks for an answer of at most `most` tokens.
fn ask(scheduler: &Scheduler, structure: Structure, seed: u64, most: usize) -> impl FnOnce() -> Result<Told, Failure> {
    let (tell, told) = channel();
    let request = scheduler.request(0, vec![1, 2, 3], move |event| tell.send(event).is_ok());
    let sampling = Sampling { seed, temperature: 1.0, top_p: 1.0, min_p: 0.0, top_k: 0, ..Sampling::greedy() };
    scheduler.submit(longreach_engine::scheduler::Request { most, structure, sampling, ..request }).expect("taken");
    move || {
        let (mut text, mut call, mut ids, mut ended) = Told::default();
        loop {
            match told.recv_timeout(Duration::from_secs(300)).expect("an event") {
                Event::Wrote(wrote) => {
                    text += &wrote.text;
                    call += &wrote.call;
                    ids.push(wrote.id);
                }
                Event::Ended { why, text: rest, call: more, .. } => {
                    text += &rest;
                    call += &more;
                    ended = Some(why);
                }
                Event::Done => return Ok((text, call, ids, ended)),
                Event::Failed(failure) => return Err(failure),
                _ => {}
            }
        }
    }
}

/// A schema of values that end by themselves.
fn schema(rng: &mut ChaCha8Rng, depth: usize) -> Value {
    match rng.random_range(0..if depth == 0 { 7 } else { 10 }) {
        0 => json!({"type": "boolean"}),
        1 => json!({"type": "null"}),
        2 => {
            let least = rng.random_range(-50..50);
            json!({"type": "integer", "minimum": least, "maximum": least + rng.random_range(0..200)})
        }
        3 => json!({"type": "number", "minimum": 0, "exclusiveMaximum": rng.random_range(1..9), "multipleOf": 0.5}),
        4 => json!({"type": "string", "minLength": rng.random_range(0..3), "maxLength": rng.random_range(3..9)}),
        5 => json!({"enum": ["one", 2, null, [true], {"three": 3.5}, "a \"quoted\" text"]}),
        6 => json!({"type": "string", "pattern": "^[a-c]{2,4}-[0-9]+$", "maxLength": 8}),
        7 => {
            let least = rng.random_range(0..3);
            json!({"type": "array", "items": schema(rng, depth - 1), "minItems": least, "maxItems": least + 2})
        }
        8 => json!({"anyOf": [schema(rng, depth - 1), schema(rng, depth - 1)]}),
        _ => {
            let names = ["name", "näme", "a b", "\"", "x"];
            let count = rng.random_range(0..names.len());
            let properties: Map<String, Value> =
                names[..count].iter().map(|name| ((*name).to_owned(), schema(rng, depth - 1))).collect();
            let required: Vec<&&str> = names[..count].iter().filter(|_| rng.random_bool(0.5)).collect();
            json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
        }
    }
}

/// Whether a value fits a schema, as far as [`schema`] makes them: by the specification's words, one keyword after the other.
fn fits(schema: &Value, value: &Value) -> bool {
    let number = |name: &str| schema[name].as_f64();
    let is = |kind: &str| match kind {
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.as_f64().is_some_and(|x| x.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        _ => value.is_object(),
    };
    let listed = |name: &str| schema[name].as_array().cloned().unwrap_or_default();
    let mut good = schema["type"].as_str().is_none_or(is);
    good &= schema.get("enum").is_none_or(|all| all.as_array().is_some_and(|all| all.contains(value)));
    good &= schema.get("anyOf").is_none() || listed("anyOf").iter().any(|one| fits(one, value));
    if let Some(x) = value.as_f64() {
        good &= number("minimum").is_none_or(|least| x >= least) && number("maximum").is_none_or(|most| x <= most);
        good &= number("exclusiveMaximum").is_none_or(|most| x < most);
        good &= number("multipleOf").is_none_or(|of| (x / of).fract() == 0.0);
    }
    if let Some(text) = value.as_str() {
        let length = text.chars().count() as f64;
        good &= number("minLength").is_none_or(|least| length >= least)
            && number("maxLength").is_none_or(|most| length <= most);
        good &= schema["pattern"].as_str().is_none_or(|_| {
            text.split_once('-').is_some_and(|(letters, digits)| {
                (2..=4).contains(&letters.len())
                    && letters.chars().all(|c| ('a'..='c').contains(&c))
                    && !digits.is_empty()
                    && digits.chars().all(|c| c.is_ascii_digit())
            })
        });
    }
    if let Some(list) = value.as_array() {
        let length = list.len() as f64;
        good &= number("minItems").is_none_or(|least| length >= least)
            && number("maxItems").is_none_or(|most| length <= most);
        good &= schema.get("items").is_none_or(|items| list.iter().all(|value| fits(items, value)));
    }
    if let Some(map) = value.as_object() {
        good &= listed("required").iter().all(|name| map.contains_key(name.as_str().expect("a name")));
        let own = |name: &str| schema["properties"].get(name);
        good &= map.iter().all(|(name, value)| match own(name) {
            Some(schema) => fits(schema, value),
            None => schema["additionalProperties"] != false,
        });
    }
    good
}

/// Whether JSON has white space outside of its strings.
fn is_spaced(text: &str) -> bool {
    let (mut string, mut escaped) = (false, false);
    text.chars().any(|c| {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = string,
            '"' => string = !string,
            _ => {}
        }
        !string && c.is_whitespace()
    })
}

#[test]
fn a_finished_answer_fits_its_schema() {
    let engine = Engine::embedded(None).expect("the built-in model");
    let scheduler = Scheduler::start(vec![engine.clone()], Limits::default());
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut asked = Vec::new();
    for _ in 0..30 {
        let schema = schema(&mut rng, 2);
        let grammar = engine.grammar(&Form::Schema(schema.clone())).unwrap_or_else(|e| panic!("{e}: {schema}"));
        for seed in 0..2 {
            asked.push((schema.clone(), ask(&scheduler, Structure::Grammar(grammar.clone()), seed, 150)));
        }
    }
    let (all, mut finished) = (asked.len(), 0);
    for (schema, told) in asked {
        let (text, _, _, ended) = told().unwrap_or_else(|e| panic!("{e}: {schema}"));
        if ended != Some(Ended::Stopped) {
            continue;
        }
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}, of {schema}"));
        assert!(fits(&schema, &value) && !is_spaced(&text), "{text} does not fit {schema}");
        finished += 1;
    }
    assert!(finished * 10 > all * 9, "{finished} of {all}");
}

#[test]
fn other_forms_are_kept_as_well() {
    let engine = Engine::embedded(None).expect("the built-in model");
    let scheduler = Scheduler::start(vec![engine.clone()], Limits::default());
    let written = |form: Form, seed| {
        let grammar = engine.grammar(&form).unwrap_or_else(|e| panic!("{e}: {form:?}"));
        let (text, _, _, ended) = ask(&scheduler, Structure::Grammar(grammar), seed, 60)().expect("an answer");
        (text, ended == Some(Ended::Stopped))
    };
    let choices = ["yes", "no", "a \"third\" — 日本"];
    let mut seen = Vec::new();
    for seed in 0..4 {
        let (text, whole) = written(Form::Choice(choices.map(str::to_owned).to_vec()), seed);
        assert!(whole && choices.contains(&&*text), "{text}");
        seen.push(text);
        let (text, whole) = written(Form::Regex("[0-9]{3}-[a-f]{2}".into()), seed);
        assert!(whole && text.len() == 6 && text.as_bytes()[3] == b'-', "{text}");
        let (text, whole) = written(Form::Lark("start: \"<\" NUMBER \">\"\nNUMBER: /[1-9]{2}/".into()), seed);
        assert!(whole && text.len() == 4 && text.starts_with('<') && text.ends_with('>'), "{text}");
    }
    seen.sort();
    seen.dedup();
    assert!(seen.len() > 1, "the model still chooses");
}

fn functions() -> Vec<Function> {
    let weather = json!({"type": "object", "properties": {"city": {"type": "string", "maxLength": 6},
        "days": {"$ref": "#/$defs/days"}}, "required": ["city", "days"], "additionalProperties": false,
        "$defs": {"days": {"type": "integer", "minimum": 1, "maximum": 9}}});
    vec![
        Function { name: "weather".into(), parameters: Some(weather) },
        Function { name: "now.utc".into(), parameters: None },
    ]
}

#[test]
fn calls_have_arguments_of_their_schema() {
    let engine = Engine::embedded(None).expect("the built-in model");
    let scheduler = Scheduler::start(vec![engine.clone()], Limits::default());
    for style in [CallStyle::Tagged, CallStyle::List, CallStyle::Bare] {
        for seed in 0..1 {
            let calls = Calls { style, functions: functions(), many: false, tagged: true };
            let grammar = engine.grammar(&Form::Calls(calls)).unwrap_or_else(|e| panic!("{e}: {style:?}"));
            let told = ask(&scheduler, Structure::Calls(grammar), seed, 120);
            let (text, call, _, ended) = told().expect("an answer");
            assert_eq!((text.as_str(), ended), ("", Some(Ended::Stopped)), "{call}");
            let (from, to) = (call.find('{').expect("an object"), call.rfind('}').expect("an object"));
            let (before, object, behind) = (&call[..from], &call[from..=to], &call[to + 1..]);
            match style {
                CallStyle::Tagged => {
                    assert!(before.trim() == "<tool_call>" && behind.trim() == "</tool_call>", "{call}")
                }
                CallStyle::List => assert!(before.replace(' ', "") == "[TOOL_CALLS][" && behind == "]", "{call}"),
                CallStyle::Bare => assert!(before.is_empty() && behind.is_empty(), "{call}"),
            }
            let object: Value = serde_json::from_str(object).unwrap_or_else(|e| panic!("{e}: {call}"));
            let arguments = &object[style.arguments()];
            match object["name"].as_str() {
                Some("weather") => {
                    assert!(arguments["city"].as_str().is_some_and(|city| city.chars().count() <= 6), "{call}");
                    assert!(arguments["days"].as_f64().is_some_and(|days| (1.0..=9.0).contains(&days)), "{call}");
                }
                Some("now.utc") => assert_eq!(*arguments, json!({}), "{call}"),
                other => panic!("{other:?}: {call}"),
            }
        }
    }
}

#[test]
fn company_changes_no_token_of_an_answer_with_a_grammar() {
    let engine = Engine::embedded(None).expect("the built-in model");
    let scheduler = Scheduler::start(vec![engine.clone()], Limits::default());
    let schema = json!({"type": "object", "properties": {"a": {"type": "string", "maxLength": 12}, "b": {"type": "array",
        "items": {"type": "integer"}, "maxItems": 4}}, "required": ["a", "b"]});
    let grammar = engine.grammar(&Form::Schema(schema)).expect("a grammar");
    let structure = |i: u64| if i.is_multiple_of(3) { Structure::None } else { Structure::Grammar(grammar.clone()) };
    let alone: Vec<Told> = (0..4).map(|i| ask(&scheduler, structure(i), i, 16)().expect("an answer")).collect();
    let together: Vec<_> = (0..4).map(|i| ask(&scheduler, structure(i), i, 16)).collect();
    for (alone, together) in alone.into_iter().zip(together) {
        assert_eq!(together().expect("an answer"), alone);
    }
}

#[test]
fn what_is_not_enforced_is_refused_by_its_place() {
    let engine = Engine::embedded(None).expect("the built-in model");
    let deep = (0..40).fold(json!({"type": "null"}), |inner, _| json!({"type": "array", "items": inner}));
    let long = json!({"description": "x".repeat(70_000)});
    for (schema, place, says) in [
        (json!({"properties": {"a": {"not": {}}}}), ".properties.a.not", "`not`"),
        (json!({"anyOf": [{}, {"uniqueItems": true}]}), ".anyOf[1].uniqueItems", "`uniqueItems`"),
        (json!({"$defs": {"x": {"if": {}}}}), ".$defs.x.if", "`if`"),
        (json!({"items": 5}), ".items", "want a schema"),
        (json!({"type": "strin"}), "", "strin"),
        (json!({"type": "string", "format": "no-such"}), "", "no-such"),
        (json!({"x-guidance": {}}), ".x-guidance", "x-guidance"),
        (json!(5), "", "want a schema"),
        (json!(false), "", ""),
        (deep, "", "depth"),
        (long, "", "bytes"),
    ] {
        let shown: String = schema.to_string().chars().take(100).collect();
        match engine.grammar(&Form::Schema(schema)) {
            Err(Error::Grammar { at, message }) => {
                assert_eq!(at, place, "{shown}: {message}");
                assert!(message.contains(says), "{shown}: {message}");
            }
            Err(other) => panic!("{shown}: {other}"),
            Ok(_) => panic!("{shown} was taken"),
        }
    }
    for form in
        [Form::Lark("start: (".into()), Form::Regex("[".into()), Form::Choice(Vec::new()), Form::Lark(String::new())]
    {
        assert!(matches!(engine.grammar(&form), Err(Error::Grammar { .. })), "{form:?}");
    }
}
