//! `/openapi.json` says what the parser takes.

use longreach_server::{Model, Server, Settings};
use serde_json::{Value, json};

use crate::client::{get, post};
use crate::{MAMBA, encoder, tiny};

/// A request that is whole but for what a field adds to it.
fn whole(path: &str) -> Value {
    match path {
        "/v1/chat/completions" => {
            json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "logprobs": true})
        }
        "/v1/completions" => json!({"prompt": "x", "max_tokens": 1}),
        "/v1/states" => json!({"prompt": "x"}),
        "/v1/embeddings" => json!({"input": "x"}),
        "/v1/rerank" => json!({"query": "x", "documents": ["y"]}),
        "/v1/vector_stores" => json!({"name": "x"}),
        "/v1/vector_stores/{id}/files" | "/v1/vector_stores/{id}/search" => Value::Null,
        "/tokenize" => json!({"content": "x"}),
        "/detokenize" => json!({"tokens": [1]}),
        other => panic!("no request for {other}"),
    }
}

/// Every field that is described is known, the bounds are those of the parser, and values that the schema excludes are refused by the name of the field;
/// every other field is unknown.
#[test]
fn every_field_is_as_it_is_described() {
    let server = Server::bind(Settings { port: 0, ..Settings::default() }).expect("bound");
    let decoder = longreach_server::Loaded::Decoder(tiny::engine(MAMBA));
    let decoder = Model { names: vec!["tiny".into()], loaded: decoder };
    server.load(vec![decoder, encoder("st-bert-mean"), encoder("colbert")]).expect("loaded");
    let address = server.address();
    let described = get(address, "/openapi.json").json();
    assert_eq!(described["openapi"], "3.1.0");
    let mut tried = 0;
    for (path, methods) in described["paths"].as_object().expect("paths") {
        let known = get(address, &path.replace("{id}", "nobody")).status;
        assert_eq!(known == 405, methods["get"].is_null(), "{path}: {known}");
        let body = &methods["post"]["requestBody"]["content"]["application/json"]["schema"];
        let Some(fields) = body["properties"].as_object() else { continue };
        // What is below a vector store wants one.
        if whole(path).is_null() {
            continue;
        }
        let asked = |name: &str, value: &Value| {
            let mut request = whole(path);
            request[name] = value.clone();
            let reply = post(address, path, &request);
            let error = reply.json()["error"].clone();
            (
                reply.status,
                error["code"].as_str().unwrap_or("").to_owned(),
                error["param"].as_str().unwrap_or("").to_owned(),
            )
        };
        assert_eq!(post(address, path, &whole(path)).status, 200, "{path}");
        for name in body["required"].as_array().expect("a list") {
            let mut request = whole(path);
            request.as_object_mut().expect("an object").remove(name.as_str().expect("a name"));
            assert_eq!(post(address, path, &request).json()["error"]["code"], "missing_required", "{path} {name}");
        }
        assert_eq!(asked("no_such_field_at_all", &json!(1)).1, "unknown_parameter", "{path}");
        for (name, schema) in fields {
            let wrong = match schema["type"][0].as_str() {
                Some("string") => json!(5),
                Some("boolean") => json!("yes"),
                Some("integer" | "number" | "object") => json!("many"),
                _ => json!(null),
            };
            let (status, code, param) = asked(name, &wrong);
            if wrong.is_null() {
                assert_ne!(code, "unknown_parameter", "{path} {name}");
                continue;
            }
            assert_eq!((status, &code[..], &param), (400, "invalid_type", name), "{path} {name}");
            for (bound, by) in [("minimum", -1.0), ("maximum", 1.0)] {
                let Some(bound) = schema[bound].as_f64() else { continue };
                // The bound itself is taken, but for shares, which are above 0.
                if by > 0.0 || schema["type"][0] == "integer" {
                    assert_ne!(asked(name, &json!(bound)).1, "invalid_value", "{path} {name} {bound}");
                }
                let (status, code, param) = asked(name, &json!(bound + by));
                assert_eq!((status, &code[..], &param), (400, "invalid_value", name), "{path} {name} {}", bound + by);
            }
            tried += 1;
        }
    }
    assert!(tried > 50, "{tried}");
    server.stop();
}
