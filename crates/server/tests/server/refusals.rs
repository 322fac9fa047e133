//! What is refused, and how.

use std::time::{Duration, Instant};

use longreach_engine::scheduler::Limits;
use longreach_server::{Server, Settings};
use serde_json::{Value, json};

use crate::client::{Connection, Reply, ask, get, post};
use crate::{MAMBA, serve};

#[track_caller]
fn refused(reply: &Reply, status: u16, code: &str, param: Option<&str>) {
    let body = reply.json();
    let error = &body["error"];
    assert_eq!((reply.status, error["code"].as_str(), error["param"].as_str()), (status, Some(code), param), "{body}");
    assert!(error["message"].as_str().is_some_and(|message| message.len() > 8) && error["type"].is_string());
    assert!(reply.header("x-request-id").is_some() && reply.header("openai-processing-ms").is_some());
}

fn function(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name}})
}

#[test]
fn a_field_is_refused_by_its_path() {
    let server = serve(MAMBA, Settings { most_tokens: 100, ..Settings::default() });
    let text = "/v1/completions";
    let chat = "/v1/chat/completions";
    let message = json!([{"role": "user", "content": "x"}]);
    let cases = [
        (text, json!({"promt": "x"}), "unknown_parameter", "promt"),
        (text, json!({"prompt": 5}), "invalid_type", "prompt"),
        (text, json!({"prompt": []}), "invalid_value", "prompt"),
        (text, json!({"prompt": ["x", 3]}), "invalid_type", "prompt[1]"),
        (text, json!({"prompt": [1, 2, 259]}), "token_out_of_range", "prompt[2]"),
        (text, json!({"prompt": [1, -2]}), "token_out_of_range", "prompt[1]"),
        (text, json!({"prompt": [[1], []]}), "invalid_value", "prompt[1]"),
        (text, json!({"prompt": vec!["x"; 257]}), "invalid_value", "prompt"),
        (text, json!({"prompt": vec!["x"; 100], "n": 3}), "invalid_value", "n"),
        (text, json!({"n": 17}), "invalid_value", "n"),
        (text, json!({"n": 1.5}), "invalid_type", "n"),
        (text, json!({"max_tokens": 101}), "invalid_value", "max_tokens"),
        (text, json!({"max_tokens": -1}), "invalid_value", "max_tokens"),
        (text, json!({"temperature": 2.5}), "invalid_value", "temperature"),
        (text, json!({"temperature": "hot"}), "invalid_type", "temperature"),
        (text, json!({"top_p": 0}), "invalid_value", "top_p"),
        (text, json!({"logprobs": 21}), "invalid_value", "logprobs"),
        (text, json!({"stop": ["x", ""]}), "invalid_value", "stop[1]"),
        (text, json!({"stop": vec!["x"; 17]}), "invalid_value", "stop"),
        (text, json!({"stop": [3]}), "invalid_type", "stop[0]"),
        (text, json!({"logit_bias": {"259": 1}}), "token_out_of_range", "logit_bias.259"),
        (text, json!({"logit_bias": {"1": 101}}), "invalid_value", "logit_bias.1"),
        (text, json!({"logit_bias": {"1": "x"}}), "invalid_type", "logit_bias.1"),
        (text, json!({"seed": 0.5}), "invalid_type", "seed"),
        (text, json!({"suffix": "x"}), "unsupported_parameter", "suffix"),
        (text, json!({"best_of": 2}), "unsupported_parameter", "best_of"),
        (text, json!({"store": true}), "unsupported_parameter", "store"),
        (text, json!({"stream_options": {}}), "invalid_value", "stream_options"),
        (text, json!({"stream": true, "stream_options": {"usage": true}}), "unknown_parameter", "stream_options.usage"),
        (text, json!({"stream": 1}), "invalid_type", "stream"),
        (text, json!({"response_format": {"type": "xml"}}), "invalid_value", "response_format.type"),
        (text, json!({"response_format": {"type": "json_schema"}}), "missing_required", "response_format.json_schema"),
        (
            text,
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {"items": {"not": {}}}}}}),
            "invalid_schema",
            "response_format.json_schema.schema.items.not",
        ),
        (text, json!({"response_format": {"type": "json_object"}, "stop": "}"}), "unsupported_parameter", "stop"),
        (
            text,
            json!({"response_format": {"type": "json_object"}, "ignore_eos": true}),
            "unsupported_parameter",
            "ignore_eos",
        ),
        (text, json!({"grammar": {"type": "bnf", "value": "x"}}), "invalid_value", "grammar.type"),
        (text, json!({"grammar": {"type": "regex"}}), "missing_required", "grammar.value"),
        (text, json!({"grammar": {"type": "regex", "value": "["}}), "invalid_schema", "grammar.value"),
        (text, json!({"grammar": {"type": "choice", "value": ["a", 5]}}), "invalid_type", "grammar.value[1]"),
        (
            text,
            json!({"grammar": {"type": "choice", "value": ["a"]}, "response_format": {"type": "json_object"}}),
            "invalid_value",
            "grammar",
        ),
        (chat, json!({}), "missing_required", "messages"),
        (chat, json!({"messages": []}), "invalid_value", "messages"),
        (chat, json!({"messages": ["x"]}), "invalid_type", "messages[0]"),
        (chat, json!({"messages": [{"role": "user"}]}), "missing_required", "messages[0].content"),
        (chat, json!({"messages": [{"role": "king", "content": "x"}]}), "invalid_value", "messages[0].role"),
        (chat, json!({"messages": [{"role": "user", "content": 3}]}), "invalid_type", "messages[0].content"),
        (
            chat,
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            "unsupported_content",
            "messages[0].content[0]",
        ),
        (
            chat,
            json!({"messages": [{"role": "user", "content": "x", "contents": 1}]}),
            "unknown_parameter",
            "messages[0].contents",
        ),
        (chat, json!({"messages": message, "tools": [{"type": "function"}]}), "missing_required", "tools[0].function"),
        (chat, json!({"messages": message, "tools": [{"type": "search"}]}), "unsupported_parameter", "tools[0].type"),
        (chat, json!({"messages": message, "tools": [function("a b")]}), "invalid_value", "tools[0].function.name"),
        (
            chat,
            json!({"messages": message, "tools": [function("a"), function("a")]}),
            "invalid_value",
            "tools[1].function.name",
        ),
        (chat, json!({"messages": message, "tools": vec![function("a"); 129]}), "invalid_value", "tools"),
        (
            chat,
            json!({"messages": message, "tools": [{"type": "function", "function": {"name": "a", "parameters":
                {"type": "object", "properties": {"x": {"else": {}}}}}}]}),
            "invalid_schema",
            "tools[0].function.parameters.properties.x.else",
        ),
        (chat, json!({"messages": message, "tool_choice": "required"}), "invalid_value", "tool_choice"),
        (
            chat,
            json!({"messages": message, "tools": [function("a")], "tool_choice": {"type": "function", "function": {"name": "b"}}}),
            "invalid_value",
            "tool_choice.function.name",
        ),
        (
            chat,
            json!({"messages": message, "tools": [function("a")], "response_format": {"type": "json_object"}}),
            "unsupported_parameter",
            "response_format",
        ),
        (
            chat,
            json!({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "["}}]}]}),
            "invalid_value",
            "messages[0].tool_calls[0].function.arguments",
        ),
        (chat, json!({"messages": message, "top_logprobs": 2}), "invalid_value", "top_logprobs"),
        (
            chat,
            json!({"messages": message, "max_tokens": 3, "max_completion_tokens": 4}),
            "invalid_value",
            "max_tokens",
        ),
        (chat, json!({"messages": message, "reasoning_effort": "high"}), "unsupported_parameter", "reasoning_effort"),
        (
            chat,
            json!({"messages": message, "chat_template_kwargs": {"messages": []}}),
            "invalid_value",
            "chat_template_kwargs.messages",
        ),
        (chat, json!({"messages": message, "continue_final_message": true}), "invalid_value", "continue_final_message"),
        (chat, json!({"messages": message, "audio": {}}), "unsupported_parameter", "audio"),
        ("/v1/embeddings", json!({"input": "x"}), "model_not_for_task", "model"),
        ("/v1/rerank", json!({"query": "x", "documents": ["y"], "model": "alias"}), "model_not_for_task", "model"),
        ("/tokenize", json!({}), "missing_required", "content"),
        ("/detokenize", json!({"tokens": [1, 999]}), "token_out_of_range", "tokens[1]"),
    ];
    for (path, body, code, param) in cases {
        let reply = post(server.address(), path, &body);
        refused(&reply, 400, code, Some(param));
    }
    refused(&post(server.address(), text, &json!({"model": "gpt-5"})), 404, "model_not_found", Some("model"));
    // What changes nothing is accepted, and what has no effect is named.
    let neutral = json!({"messages": message, "max_tokens": 1, "n": null, "logit_bias": {}, "store": false, "tools": [],
        "modalities": ["text"], "user": "me", "metadata": {"a": "b"}, "parallel_tool_calls": true, "model": "alias"});
    let reply = post(server.address(), chat, &neutral);
    assert_eq!((reply.status, reply.header("x-ignored-parameters")), (200, Some("user, metadata")), "{}", reply.text());
    server.stop();
    let server = serve(MAMBA, Settings { lenient: true, ..Settings::default() });
    let reply = post(server.address(), text, &json!({"prompt": "x", "max_tokens": 1, "promt": 1}));
    assert_eq!((reply.status, reply.header("x-ignored-parameters")), (200, Some("promt")));
    server.stop();
}

#[test]
fn paths_methods_and_bodies_are_refused_with_an_error_body() {
    let server = serve(MAMBA, Settings { most_body: 10_000, ..Settings::default() });
    let at = server.address();
    refused(&get(at, "/nowhere"), 404, "not_found", None);
    refused(&get(at, "/v1/models/none"), 404, "model_not_found", Some("model"));
    for id in ["tiny/model", "tiny%2Fmodel", "alias"] {
        assert_eq!(get(at, &format!("/v1/models/{id}")).json()["id"], "tiny/model");
    }
    let reply = get(at, "/v1/completions");
    refused(&reply, 405, "method_not_allowed", None);
    assert_eq!(reply.header("allow"), Some("POST, OPTIONS"));
    refused(&ask(at, "DELETE", "/v1/models", &[], ""), 405, "method_not_allowed", None);
    let plain = [("content-type", "text/plain")];
    refused(&ask(at, "POST", "/v1/completions", &plain, "{}"), 415, "unsupported_media_type", None);
    for body in ["", "{", "[]", "\"x\"", "{\"a\": 1e999}", &"[".repeat(5_000), "{\"prompt\": \"\u{0}\"}x"] {
        refused(&ask(at, "POST", "/v1/completions", &[], body), 400, "invalid_json", None);
    }
    // Too long by its own account: nothing of it is read.
    let mut client = Connection::open(at);
    client.send(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\n\r\n");
    let reply = client.reply().expect("an answer");
    refused(&reply, 413, "body_too_large", None);
    assert_eq!(reply.header("connection"), Some("close"));
    // Too long without an account.
    let mut client = Connection::open(at);
    client.send(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n");
    client.send(format!("4000\r\n{}\r\n", " ".repeat(0x4000)).as_bytes());
    refused(&client.reply().expect("an answer"), 413, "body_too_large", None);
    let id = ask(at, "GET", "/health", &[("x-client-request-id", "my-id_1.2")], "");
    assert_eq!((id.status, id.header("x-request-id")), (200, Some("my-id_1.2")));
    let id = ask(at, "GET", "/health", &[("x-client-request-id", "no good")], "");
    assert!(id.header("x-request-id").is_some_and(|id| id.starts_with("req_")));
    server.stop();
}

#[test]
fn keys_hosts_and_origins_decide_who_may_ask() {
    let settings =
        Settings { keys: vec!["secret".into()], origins: vec!["http://page.example".into()], ..Settings::default() };
    let server = serve(MAMBA, settings);
    let at = server.address();
    for path in ["/v1/models", "/metrics", "/version"] {
        let reply = get(at, path);
        refused(&reply, 401, "invalid_api_key", None);
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        refused(&ask(at, "GET", path, &[("authorization", "Bearer wrong")], ""), 401, "invalid_api_key", None);
        assert_eq!(ask(at, "GET", path, &[("authorization", "bearer secret")], "").status, 200);
        assert_eq!(ask(at, "GET", path, &[("x-api-key", "secret")], "").status, 200);
    }
    for path in ["/", "/page.js", "/page.css", "/health"] {
        assert_eq!(get(at, path).status, 200, "{path}");
    }
    refused(&ask(at, "GET", "/health", &[("host", "evil.example")], ""), 403, "host_not_allowed", None);
    for host in ["localhost:1234", "127.0.0.1", "[::1]:80"] {
        assert_eq!(ask(at, "GET", "/health", &[("host", host)], "").status, 200, "{host}");
    }
    let key = ("x-api-key", "secret");
    let posted = |headers: &[(&str, &str)]| ask(at, "POST", "/tokenize", headers, "{\"content\": \"x\"}");
    refused(&posted(&[key, ("origin", "http://evil.example")]), 403, "origin_not_allowed", None);
    assert_eq!(posted(&[key, ("origin", "http://localhost")]).status, 200);
    let named = posted(&[key, ("origin", "http://page.example")]);
    assert_eq!((named.status, named.header("access-control-allow-origin")), (200, Some("http://page.example")));
    assert_eq!(posted(&[key]).header("access-control-allow-origin"), None);
    let preflight = |origin: &str| ask(at, "OPTIONS", "/v1/completions", &[("origin", origin)], "");
    assert_eq!(preflight("http://page.example").header("access-control-allow-methods"), Some("POST, OPTIONS"));
    assert_eq!(preflight("http://evil.example").header("access-control-allow-methods"), None);
    server.stop();
}

#[test]
fn a_server_is_loading_then_full_then_gone() {
    let server = Server::bind(Settings { port: 0, ..Settings::default() }).expect("bound");
    refused(&get(server.address(), "/health"), 503, "loading", None);
    assert!(Server::bind(Settings { port: server.address().port(), ..Settings::default() }).is_err());
    server.stop();
    let limits = Limits { running: 1, waiting: 1, ..Limits::default() };
    let server = serve(MAMBA, Settings { limits, most_tokens: 1_000_000, ..Settings::default() });
    let at = server.address();
    let endless = json!({"prompt": "x", "max_tokens": 1_000_000, "ignore_eos": true, "stream": true}).to_string();
    let mut running = Connection::open(at);
    running.ask("POST", "/v1/completions", &[], &endless);
    running.head();
    assert!(!running.chunk().is_empty());
    let mut waiting = Connection::open(at);
    waiting.ask("POST", "/v1/completions", &[], &endless);
    waiting.head();
    let reply = post(at, "/v1/completions", &json!({"prompt": "x"}));
    refused(&reply, 429, "queue_full", None);
    assert!(reply.header("retry-after").is_some());
    // Ended: both are told so, and neither stream says that it is done.
    server.stop();
    for client in [&mut running, &mut waiting] {
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut client.stream, &mut rest).ok();
        assert!(rest.contains("shutting_down") && !rest.contains("[DONE]"), "{rest}");
    }
}

/// A generator of numbers for the bodies below: the same every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

#[test]
fn no_body_makes_the_server_fail() {
    let server = serve(MAMBA, Settings { most_tokens: 3, ..Settings::default() });
    let values = [
        "null",
        "true",
        "-1",
        "0",
        "1",
        "1e308",
        "-0.0",
        "18446744073709551616",
        "\"\"",
        "\"\\ud800\"",
        "\"é\u{e000}<|im_end|>\"",
        "[]",
        "{}",
        "[[]]",
        "[1,2]",
        "[256]",
        "[\"\"]",
        "{\"1\":1}",
        "\"text\"",
        "{\"type\":\"text\"}",
        "1e-320",
        "[null]",
    ];
    let fields = [
        "model",
        "prompt",
        "messages",
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "n",
        "seed",
        "stop",
        "stream",
        "logprobs",
        "top_logprobs",
        "echo",
        "logit_bias",
        "input",
        "dimensions",
        "documents",
        "query",
        "content",
        "tokens",
        "stream_options",
        "response_format",
        "tools",
        "chat_template_kwargs",
        "min_tokens",
        "stop_token_ids",
        "presence_penalty",
        "repetition_penalty",
        "typical_p",
    ];
    let paths = ["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/rerank", "/tokenize", "/detokenize"];
    let mut numbers = Numbers(11);
    let mut client = Connection::open(server.address());
    let (mut statuses, start) = (std::collections::BTreeMap::new(), Instant::now());
    let rounds = if cfg!(debug_assertions) { 300 } else { 2_500 };
    for round in 0..rounds {
        let path = paths[numbers.below(paths.len())];
        let mut body = String::from("{");
        if numbers.below(2) == 0 {
            body += "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],";
        }
        for _ in 0..numbers.below(4) {
            body += &format!("\"{}\":{},", fields[numbers.below(fields.len())], values[numbers.below(values.len())]);
        }
        body = body.trim_end_matches(',').to_owned() + "}";
        let mut body = body.into_bytes();
        if numbers.below(3) == 0 {
            for _ in 0..1 + numbers.below(3) {
                let at = numbers.below(body.len());
                body[at] = numbers.below(256) as u8;
            }
        }
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        client.send(head.as_bytes());
        client.send(&body);
        let reply = client.reply().expect("an answer");
        let said = String::from_utf8_lossy(&body).into_owned();
        assert!(reply.status < 500, "round {round}: {path} {said}: {}", String::from_utf8_lossy(&reply.body));
        if reply.status != 200 {
            let error: Value = reply.json();
            assert!(error["error"]["code"].is_string(), "{error}");
        }
        *statuses.entry(reply.status).or_insert(0) += 1;
        if reply.header("connection") == Some("close") {
            client = Connection::open(server.address());
        }
    }
    assert!(statuses[&200] > rounds / 50 && statuses[&400] > rounds / 5, "{statuses:?}");
    assert!(start.elapsed() < Duration::from_secs(300));
    server.stop();
}
