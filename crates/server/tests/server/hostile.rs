//! Requests that nobody means well with, clients that vanish, and the count of all of them.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use longreach_server::{Loaded, Model, Server, Settings};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

use crate::client::{Connection, get, post};
use crate::{MAMBA, encoder, serve, tiny};

/// The value of a metric, of all its labels together that hold `part`.
fn metric(server: &Server, name: &str, part: &str) -> u64 {
    let text = get(server.address(), "/metrics");
    let lines = text.text().lines().filter(|line| line.starts_with(name) && line.contains(part)).map(str::to_owned);
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Requests that are taken, by endpoint.
fn valid() -> Vec<(&'static str, Value)> {
    let messages = json!([{"role": "system", "content": "x"}, {"role": "user", "content": [{"type": "text", "text": "y"}]},
        {"role": "assistant", "content": "z", "reasoning_content": "w"}, {"role": "user", "content": "v"}]);
    vec![
        (
            "/v1/completions",
            json!({"model": "tiny", "prompt": ["a", "b"], "max_tokens": 2, "temperature": 0.5, "top_p": 0.9, "n": 2,
                "seed": 3, "stop": ["q"], "logprobs": 2, "echo": true, "logit_bias": {"97": 1}, "stream": true,
                "stream_options": {"include_usage": true}, "stop_token_ids": [256], "user": "u"}),
        ),
        (
            "/v1/chat/completions",
            json!({"messages": messages, "max_completion_tokens": 2, "top_logprobs": 1, "logprobs": true, "seed": 1,
                "presence_penalty": 0.5, "chat_template_kwargs": {"think": true}, "continue_final_message": false}),
        ),
        ("/v1/embeddings", json!({"input": ["a", "b"], "encoding_format": "base64", "dimensions": 4})),
        ("/v1/rerank", json!({"query": "a", "documents": ["b", {"text": "c"}], "top_n": 1, "return_documents": true})),
        ("/tokenize", json!({"content": "a b", "add_special": true, "with_pieces": true})),
        ("/detokenize", json!({"tokens": [97, 98, 256]})),
        ("/v1/states", json!({"prompt": "a", "name": "n", "stream": true})),
    ]
}

/// Every place in a value, as a JSON pointer.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Array(all) => all.iter().enumerate().for_each(|(i, one)| places(one, &format!("{at}/{i}"), found)),
        Value::Object(all) => all.iter().for_each(|(name, one)| places(one, &format!("{at}/{name}"), found)),
        _ => {}
    }
}

/// A value that does not belong where it is put.
fn strange() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![-1i64, 0, 1, 255, 256, 259, 1 << 32]).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        (1usize..5_000).prop_map(|n| "é".repeat(n).into()),
        prop::sample::select(vec!["", "\u{0}", "<|im_end|>", "{{ x }}", "assistant", "float", "../../etc/passwd"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 8, |inner| {
        let object = prop::collection::vec((any::<String>(), inner.clone()), 0..4);
        prop_oneof![
            prop::collection::vec(inner, 0..8).prop_map(Value::from),
            object.prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// How the bytes of a body are damaged.
#[derive(Clone, Debug)]
enum Damage {
    None,
    Put(usize, Vec<u8>),
    Cut(usize),
    Twice(usize),
    Deep(usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        3 => Just(Damage::None),
        1 => (any::<usize>(), prop::collection::vec(any::<u8>(), 1..6)).prop_map(|(at, bytes)| Damage::Put(at, bytes)),
        1 => any::<usize>().prop_map(Damage::Cut),
        1 => any::<usize>().prop_map(Damage::Twice),
        1 => (1usize..3_000).prop_map(Damage::Deep),
    ]
}

fn damaged(mut body: Vec<u8>, damage: &Damage) -> Vec<u8> {
    let length = body.len().max(1);
    match damage {
        Damage::None => {}
        Damage::Put(at, bytes) => drop(body.splice(at % length..at % length, bytes.iter().copied())),
        Damage::Cut(at) => body.truncate(at % length),
        Damage::Twice(at) => body.extend_from_within(at % length..),
        Damage::Deep(n) => body = [&b"{\"x\":"[..], &vec![b'['; *n], &vec![b']'; *n], b"}"].concat(),
    }
    body
}

/// The body as chunks of this many bytes, or whole.
fn framed(path: &str, body: &[u8], chunk: Option<usize>) -> Vec<u8> {
    let mut bytes =
        format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n").into_bytes();
    match chunk {
        None => {
            bytes.extend(format!("content-length: {}\r\n\r\n", body.len()).into_bytes());
            bytes.extend(body);
        }
        Some(size) => {
            bytes.extend(b"transfer-encoding: chunked\r\n\r\n");
            for part in body.chunks(size) {
                bytes.extend(format!("{:x}\r\n", part.len()).into_bytes());
                bytes.extend(part);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
        }
    }
    bytes
}

/// Whatever is done to a request, its answer comes, is no fault of the server, and says what is wrong.
#[test]
fn a_damaged_request_is_refused_with_a_reason() {
    let server = Server::bind(Settings { port: 0, most_tokens: 3, ..Settings::default() }).expect("bound");
    let decoder = Model { names: vec!["tiny".into()], loaded: Loaded::Decoder(tiny::engine(MAMBA)) };
    server.load(vec![decoder, encoder("st-bert-mean"), encoder("colbert")]).expect("loaded");
    for (path, body) in valid() {
        assert_eq!(post(server.address(), path, &body).status, 200, "{path}");
    }
    let requests = valid();
    let cases = if cfg!(debug_assertions) { 150 } else { 1_500 };
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let changes = prop::collection::vec((any::<usize>(), strange()), 0..3);
    let chunk = prop::option::of(1usize..40);
    let strategy = (0..requests.len(), changes, damage(), chunk);
    let law = runner.run(&strategy, |(which, changes, damage, chunk)| {
        let (path, mut body) = requests[which].clone();
        for (at, value) in changes {
            let mut found = Vec::new();
            places(&body, "", &mut found);
            if let Some(place) = body.pointer_mut(&found[at % found.len()]) {
                *place = value;
            }
        }
        let body = damaged(body.to_string().into_bytes(), &damage);
        let mut client = Connection::open(server.address());
        client.send(&framed(path, &body, chunk));
        let reply = client.reply();
        let reply = reply.ok_or_else(|| TestCaseError::fail("no answer"))?;
        prop_assert!(reply.status < 500, "{path}: {}", reply.text());
        // What fails behind the head of a stream is an event.
        prop_assert!(!reply.text().contains("internal_error"), "{path}: {}", reply.text());
        if reply.status != 200 {
            prop_assert!(reply.json()["error"]["code"].is_string() && reply.json()["error"]["message"].is_string());
        }
        Ok(())
    });
    if let Err(error) = law {
        panic!("{error}");
    }
    assert_eq!(metric(&server, "longreach_http_requests_total", "code=\"5"), 0);
    server.stop();
}

/// A client may go at any byte of its request; nothing of it stays.
#[test]
fn clients_that_vanish_leave_nothing() {
    let server = serve(MAMBA, Settings { most_tokens: 1_000_000, ..Settings::default() });
    let body = json!({"prompt": "x", "max_tokens": 1_000_000, "ignore_eos": true, "stream": true}).to_string();
    let whole = framed("/v1/completions", body.as_bytes(), None);
    let before = post(server.address(), "/v1/completions", &json!({"prompt": "y", "max_tokens": 5, "seed": 1})).json();
    let cuts: Vec<usize> = (0..whole.len()).step_by(7).chain([whole.len(); 8]).collect();
    for (i, cut) in cuts.iter().enumerate() {
        let mut client = Connection::open(server.address());
        client.stream.get_mut().write_all(&whole[..*cut]).expect("sent");
        if i % 2 == 1 && *cut == whole.len() {
            // These have read the beginning of their answer.
            client.stream.read_exact(&mut [0; 40]).expect("a beginning");
        }
    }
    let start = Instant::now();
    // The connection that asks for the metrics is one itself.
    while metric(&server, "longreach_requests_running", "") > 0
        || metric(&server, "longreach_requests_waiting", "") > 0
        || metric(&server, "longreach_connections", "") > 1
    {
        assert!(start.elapsed() < Duration::from_secs(60), "something of them is there");
        std::thread::sleep(Duration::from_millis(5));
    }
    let after = post(server.address(), "/v1/completions", &json!({"prompt": "y", "max_tokens": 5, "seed": 1})).json();
    assert_eq!(before["choices"], after["choices"]);
    server.stop();
}

/// Every choice is counted once, by how it ended.
#[test]
fn answers_are_counted_by_how_they_end() {
    let server = serve(MAMBA, Settings { most_tokens: 1_000_000, ..Settings::default() });
    let ask = |body: &Value| {
        let reply = post(server.address(), "/v1/completions", body);
        assert_eq!(reply.status, 200, "{}", reply.text());
    };
    for stream in [false, true] {
        ask(&json!({"prompt": ["x", "y"], "n": 2, "max_tokens": 2, "ignore_eos": true, "stream": stream}));
        ask(&json!({"prompt": "x", "max_tokens": 9, "logit_bias": {"256": 100}, "temperature": 0, "stream": stream}));
    }
    let body = json!({"prompt": "x", "max_tokens": 1_000_000, "ignore_eos": true, "stream": true}).to_string();
    let mut gone = Connection::open(server.address());
    gone.ask("POST", "/v1/completions", &[], &body);
    gone.head().expect("a head");
    drop(gone);
    let counted = |reason: &str| metric(&server, "longreach_requests_finished_total", &format!("reason=\"{reason}\""));
    let start = Instant::now();
    while counted("cancelled") == 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "it goes on");
    }
    assert_eq!(["length", "stop", "cancelled", "error"].map(counted), [8, 2, 1, 0]);
    server.stop();
}
