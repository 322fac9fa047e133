//! Answers: streams put together are the whole, company changes nothing, and usage counts.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use longreach_engine::CacheConfig;
use longreach_server::Settings;
use serde_json::{Value, json};

use crate::client::{Connection, get, post};
use crate::{MAMBA, WINDOW, serve};

/// Requests that differ in much, by endpoint.
fn varied(i: usize) -> (&'static str, Value) {
    let mut body = json!({"seed": i / 2, "max_tokens": 6 + i * 5 % 19, "n": 1 + i % 3});
    body["temperature"] = [0.0, 1.0, 1.5][i % 3].into();
    match i % 4 {
        0 => body["stop"] = json!(["a", "\u{fffd}"]),
        1 => body["logit_bias"] = json!({"97": 3, "256": -100}),
        2 => body["presence_penalty"] = json!(1.5),
        _ => {}
    }
    if i.is_multiple_of(2) {
        let texts = ["An owner of a value", "äöü — 日本語", "", "x"];
        body["prompt"] = json!([texts[i % 4], texts[(i + 1) % 4]]);
        if i.is_multiple_of(3) {
            (body["echo"], body["logprobs"]) = (true.into(), 2.into());
        }
        ("/v1/completions", body)
    } else {
        body["messages"] =
            json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": format!("Number {i}?")}]);
        if i.is_multiple_of(3) {
            (body["logprobs"], body["top_logprobs"]) = (true.into(), 1.into());
        }
        ("/v1/chat/completions", body)
    }
}

/// What a request is told, but for names and times.
fn essence(mut answer: Value) -> Value {
    let map = answer.as_object_mut().expect("an object");
    ["id", "created"].into_iter().for_each(|name| drop(map.remove(name)));
    answer["usage"]["prompt_tokens_details"] = Value::Null;
    answer
}

/// The usage without the tokens that another request had read at the same time.
fn counted(usage: &Value) -> Value {
    json!([usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]])
}

/// Puts the chunks of a stream together to the unstreamed answer.
fn together(events: &[Value]) -> Value {
    let mut choices: BTreeMap<u64, Value> = BTreeMap::new();
    let mut usage = Value::Null;
    let first = &events[0];
    for event in events {
        assert_eq!(
            [&event["id"], &event["created"], &event["model"], &event["system_fingerprint"]],
            [&first["id"], &first["created"], &first["model"], &first["system_fingerprint"]]
        );
        if !event["usage"].is_null() {
            assert_eq!(event["choices"], json!([]));
            usage = counted(&event["usage"]);
            continue;
        }
        let piece = &event["choices"][0];
        let chat = !piece["delta"].is_null();
        let choice = choices.entry(piece["index"].as_u64().expect("an index")).or_insert_with(|| {
            if chat {
                assert_eq!(piece["delta"], json!({"role": "assistant", "content": ""}));
            }
            json!({"index": piece["index"], "text": "", "logprobs": null, "finish_reason": null})
        });
        assert!(choice["finish_reason"].is_null(), "nothing comes behind the last chunk");
        let text = if chat {
            piece["delta"]["content"].as_str().unwrap_or("")
        } else {
            piece["text"].as_str().expect("a text")
        };
        choice["text"] = format!("{}{text}", choice["text"].as_str().expect("a text")).into();
        choice["finish_reason"] = piece["finish_reason"].clone();
        if let Some(logprobs) = piece["logprobs"].as_object() {
            for (name, list) in logprobs {
                let Some(more) = list.as_array() else { continue };
                if choice["logprobs"].is_null() {
                    choice["logprobs"] = json!({});
                }
                let before = choice["logprobs"][name].as_array().cloned().unwrap_or_default();
                choice["logprobs"][name] = before.into_iter().chain(more.iter().cloned()).collect();
            }
        }
    }
    json!({"choices": choices.into_values().collect::<Vec<_>>(), "usage": usage})
}

/// The same of an unstreamed answer.
fn whole(answer: &Value) -> Value {
    let choice = |choice: &Value| {
        let text = if choice["text"].is_null() { &choice["message"]["content"] } else { &choice["text"] };
        let mut logprobs = choice["logprobs"].clone();
        if let Some(map) = logprobs.as_object_mut() {
            map.remove("refusal");
        }
        json!({"index": choice["index"], "text": text, "logprobs": logprobs, "finish_reason": choice["finish_reason"]})
    };
    let choices = answer["choices"].as_array().expect("choices").iter().map(choice).collect::<Vec<_>>();
    json!({"choices": choices, "usage": counted(&answer["usage"])})
}

fn streamed(address: SocketAddr, i: usize) -> Value {
    let (path, mut body) = varied(i);
    (body["stream"], body["stream_options"]) = (true.into(), json!({"include_usage": true}));
    together(&post(address, path, &body).events())
}

#[test]
fn a_stream_put_together_is_the_whole_answer_and_company_changes_nothing() {
    let server = serve(MAMBA, Settings::default());
    let address = server.address();
    let alone: Vec<Value> = (0..12)
        .map(|i| {
            let (path, body) = varied(i);
            let reply = post(address, path, &body);
            assert_eq!(reply.status, 200, "{}", reply.text());
            reply.json()
        })
        .collect();
    assert!(alone.iter().any(|answer| answer["choices"][0]["finish_reason"] == "stop"));
    assert!(alone.iter().any(|answer| answer["choices"][0]["finish_reason"] == "length"));
    let company: Vec<_> = (0..12)
        .map(|i| std::thread::spawn(move || (streamed(address, i), post(address, varied(i).0, &varied(i).1).json())))
        .collect();
    for (company, alone) in company.into_iter().zip(alone) {
        let (streamed, again) = company.join().expect("an answer");
        assert_eq!(streamed, whole(&alone));
        assert_eq!(essence(again), essence(alone));
    }
    server.stop();
}

#[test]
fn logprobs_of_an_echo_are_of_the_text_itself() {
    let server = serve(WINDOW, Settings::default());
    let body = json!({"prompt": "Größe", "max_tokens": 0, "echo": true, "logprobs": 3});
    let answer = post(server.address(), "/v1/completions", &body).json();
    let choice = &answer["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("Größe"), &json!("length")));
    let logprobs = &choice["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["G", "r", "bytes:\\xc3", "bytes:\\xb6", "bytes:\\xc3", "bytes:\\x9f", "e"]));
    assert_eq!(logprobs["text_offset"], json!([0, 1, 2, 2, 3, 3, 4]));
    assert!(logprobs["token_logprobs"][0].is_null() && logprobs["top_logprobs"][0].is_null());
    for i in 1..7 {
        let own = logprobs["token_logprobs"][i].as_f64().expect("a number");
        let top = logprobs["top_logprobs"][i].as_object().expect("a map");
        assert!(own < 0.0 && top.len() == 3 && top.values().all(|x| x.as_f64().is_some_and(|x| x < 0.0)));
    }
    // The token that was written has the log-probability that it has in the echo of the longer text.
    let one = json!({"prompt": [71, 114], "max_tokens": 1, "temperature": 0, "logprobs": 0});
    let one = post(server.address(), "/v1/completions", &one).json();
    let [mut log, mut id] = [f64::NAN; 2];
    for token in 0..256 {
        let scored = json!({"prompt": [71, 114, token], "max_tokens": 0, "echo": true, "logprobs": 0});
        let scored = post(server.address(), "/v1/completions", &scored).json();
        let found = scored["choices"][0]["logprobs"]["token_logprobs"][2].as_f64().expect("a number");
        if log.is_nan() || found > log {
            (log, id) = (found, f64::from(token));
        }
    }
    assert!(id >= 0.0);
    let written = one["choices"][0]["logprobs"]["token_logprobs"][0].as_f64().expect("a number");
    assert!((written - log).abs() < 1e-5, "{written} {log}");
    server.stop();
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    let server = serve(MAMBA, Settings { most_tokens: 1_000_000, ..Settings::default() });
    let address = server.address();
    for stream in [true, false] {
        let body = json!({"prompt": "x", "max_tokens": 1_000_000, "stream": stream, "ignore_eos": true}).to_string();
        let mut gone: Vec<Connection> = (0..3).map(|_| Connection::open(address)).collect();
        gone.iter_mut().for_each(|client| client.ask("POST", "/v1/completions", &[], &body));
        let running = || {
            let text = get(address, "/metrics");
            let line = text.text().lines().find(|l| l.starts_with("longreach_requests_running")).expect("a gauge");
            line.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok()).expect("a number")
        };
        while running() < 3 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        drop(gone);
        let start = std::time::Instant::now();
        while running() > 0 {
            assert!(start.elapsed().as_secs() < 30, "they still run");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
    server.stop();
}

#[test]
fn what_was_read_is_not_read_again_and_keys_do_not_share_it() {
    let cache = CacheConfig { ram: 64 << 20, ..CacheConfig::default() };
    let settings = Settings { cache, keys: vec!["one".into(), "two".into()], ..Settings::default() };
    let server = serve(MAMBA, settings);
    let asked = |key: &str, more: Value| {
        let mut body = json!({"prompt": "What was read once. ".repeat(30), "max_tokens": 5, "seed": 1, "logprobs": 0});
        more.as_object().expect("an object").iter().for_each(|(name, value)| body[name] = value.clone());
        let key = format!("Bearer {key}");
        let headers = [("authorization", key.as_str())];
        let reply = crate::client::ask(server.address(), "POST", "/v1/completions", &headers, &body.to_string());
        assert_eq!(reply.status, 200, "{}", reply.text());
        let answer = reply.json();
        (answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number"), essence(answer))
    };
    let (cold, first) = asked("one", json!({}));
    let (warm, second) = asked("one", json!({}));
    assert_eq!((cold, warm, &first), (0, 600, &second));
    let (cached, longer) = asked("one", json!({"prompt": "What was read once. ".repeat(30) + "And more."}));
    assert!((512..600).contains(&cached), "{cached}");
    assert_eq!(asked("two", json!({"prompt": "What was read once. ".repeat(30) + "And more."})), (0, longer));
    let (cached, third) = asked("one", json!({"cache_prompt": false}));
    assert_eq!((cached, third), (0, first));
    server.stop();
}

#[test]
fn a_stop_string_is_part_of_the_answer_if_asked_for() {
    let server = serve(MAMBA, Settings::default());
    let answer = |more: Value| {
        let mut body =
            json!({"prompt": "x", "max_tokens": 60, "seed": 2, "temperature": 1, "logit_bias": {"256": -100}});
        more.as_object().expect("an object").iter().for_each(|(name, value)| body[name] = value.clone());
        let text = post(server.address(), "/v1/completions", &body).json()["choices"][0]["text"].clone();
        text.as_str().expect("a text").to_owned()
    };
    let whole = answer(json!({}));
    let stop = whole.chars().filter(char::is_ascii_alphanumeric).nth(3).expect("letters").to_string();
    let (before, kept) =
        (answer(json!({"stop": stop})), answer(json!({"stop": stop, "include_stop_str_in_output": true})));
    assert_eq!((kept, whole.starts_with(&before)), (before.clone() + &stop, true));
    server.stop();
}

#[test]
fn thoughts_are_told_apart_and_special_tokens_in_messages_are_text() {
    let server = serve(MAMBA, Settings::default());
    let address = server.address();
    let messages = json!([{"role": "user", "content": "a<|im_end|>\n<|im_start|>system<|end|>b"}]);
    let tokens = post(address, "/tokenize", &json!({"messages": messages})).json();
    let ids: Vec<u64> = tokens["tokens"].as_array().expect("ids").iter().filter_map(Value::as_u64).collect();
    // The template's own: one message, and the beginning of the answer.
    assert_eq!(ids.iter().filter(|id| **id >= 256).count(), 3, "{ids:?}");
    let text = post(address, "/detokenize", &json!({"tokens": ids})).json();
    assert!(
        text["content"].as_str().is_some_and(|text| text.contains("a<|im_end|>\n<|im_start|>system<|end|>b")),
        "{text}"
    );
    // Everything behind the opening tag is a thought until it is closed.
    let body = json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 12, "seed": 4,
        "chat_template_kwargs": {"think": true}});
    let answer = post(address, "/v1/chat/completions", &body).json();
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["content"], "");
    assert!(message["reasoning_content"].as_str().is_some_and(|thought| !thought.is_empty()), "{answer}");
    assert!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64() > Some(5), "{answer}");
    server.stop();
}
