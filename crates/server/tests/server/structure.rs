//! Answers of a given form fit it, whatever the model would rather write.

use longreach_server::Settings;
use serde_json::{Value, json};

use crate::client::post;
use crate::{MAMBA, serve};

fn schema() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["ok", "kind", "list"], "properties": {
        "ok": {"type": "boolean"},
        "kind": {"enum": ["größer", "smaller"]},
        "list": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "minItems": 1, "maxItems": 3},
    }})
}

fn format(schema: &Value) -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "answer", "strict": true, "schema": schema}})
}

#[test]
fn finished_answers_fit_their_schema() {
    let server = serve(MAMBA, Settings::default());
    let mut different = std::collections::BTreeSet::new();
    for seed in 0..4 {
        let mut body = json!({"messages": [{"role": "user", "content": "x"}], "response_format": format(&schema()),
            "n": 3, "seed": seed, "temperature": 1.5, "max_tokens": 200});
        let answer = post(server.address(), "/v1/chat/completions", &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer = answer.json();
        for choice in answer["choices"].as_array().expect("choices") {
            assert_eq!(choice["finish_reason"], "stop");
            let text = choice["message"]["content"].as_str().expect("a text");
            let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
            let map = value.as_object().expect("an object");
            assert!(map.len() == 3 && map["ok"].is_boolean() && !text.contains(char::is_whitespace), "{text}");
            assert!(map["kind"] == "größer" || map["kind"] == "smaller", "{text}");
            let list = map["list"].as_array().expect("a list");
            assert!((1..=3).contains(&list.len()) && list.iter().all(|x| x.as_u64().is_some_and(|x| x < 100)), "{text}");
            different.insert(text.to_owned());
        }
        body["stream"] = true.into();
        let events = post(server.address(), "/v1/chat/completions", &body).events();
        let piece = |event: &Value| match event["choices"][0]["index"] == 0 {
            true => event["choices"][0]["delta"]["content"].as_str().unwrap_or("").to_owned(),
            false => String::new(),
        };
        let text: String = events.iter().map(piece).collect();
        assert_eq!(answer["choices"][0]["message"]["content"], text);
    }
    assert!(different.len() > 6, "{different:?}");
    // An answer that is cut says so.
    let body = json!({"prompt": "x", "response_format": {"type": "json_object"}, "max_tokens": 1});
    let answer = post(server.address(), "/v1/completions", &body).json();
    assert_eq!((&answer["choices"][0]["text"], &answer["choices"][0]["finish_reason"]), (&json!("{"), &json!("length")));
    server.stop();
}

#[test]
fn a_schema_that_cannot_be_kept_to_is_refused() {
    let server = serve(MAMBA, Settings::default());
    let mut deep = json!({"type": "boolean"});
    (0..40).for_each(|_| deep = json!({"type": "array", "items": deep.clone()}));
    let long: Value = (0..9_000).map(|i| format!("value {i}")).collect();
    for schema in [
        json!({"type": "nothing"}),
        json!({"type": "array", "uniqueItems": true, "contains": {"type": "integer"}}),
        json!({"$ref": "#/definitions/nowhere"}),
        json!({"$ref": "https://example.org/schema.json"}),
        json!({"type": "string", "pattern": "(a{1000}){1000}"}),
        json!({"type": "string", "pattern": "("}),
        deep,
        json!({"enum": long}),
    ] {
        let body = json!({"messages": [{"role": "user", "content": "x"}], "response_format": format(&schema), "max_tokens": 3});
        let reply = post(server.address(), "/v1/chat/completions", &body);
        let text = schema.to_string();
        let error = &reply.json()["error"];
        assert_eq!((reply.status, &error["code"]), (400, &json!("invalid_schema")), "{:.80}: {}", text, reply.text());
        assert!(reply.text().len() < 1_500);
    }
    for (format, param) in [
        (json!("json"), "response_format"),
        (json!({"type": "xml"}), "response_format.type"),
        (json!({"type": "json_schema"}), "response_format.json_schema"),
        (json!({"type": "json_schema", "json_schema": {"schema": 3}}), "response_format.json_schema.schema"),
    ] {
        let body = json!({"messages": [{"role": "user", "content": "x"}], "response_format": format});
        let reply = post(server.address(), "/v1/chat/completions", &body);
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(param)), "{}", reply.text());
    }
    server.stop();
}
