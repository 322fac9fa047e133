//! States by name: what was read once is gone on from, exactly.

use std::net::SocketAddr;

use longreach_engine::{Engine, Sampler, Sampling};
use longreach_server::{Loaded, Model, Server, Settings};
use serde_json::{Value, json};

use crate::client::{Connection, Reply, ask, get, post};
use crate::{MAMBA, WINDOW, serve, tiny};

/// Posts a file.
fn upload(address: SocketAddr, path: &str, file: &[u8]) -> Reply {
    let mut connection = Connection::open(address);
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/octet-stream\r\ncontent-length: {}\r\n\r\n",
        file.len()
    );
    connection.send(&[head.as_bytes(), file].concat());
    connection.reply().expect("an answer")
}

/// The tokens of a text that is longer than a chunk.
fn document(tokens: usize) -> Vec<u32> {
    (0..tokens as u32).map(|i| (i * i + 7 * i) % 256).collect()
}

fn cached(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number")
}

const DENSE: &str = r#""mixer": {"type": "dense"}"#;

/// Behind a state, an answer has the bits of one whose prompt is the whole text; only the tokens behind the state's last cut are read.
#[test]
fn an_answer_behind_a_state_is_that_of_the_whole_text() {
    for blocks in [MAMBA, WINDOW, DENSE] {
        let server = serve(blocks, Settings::default());
        let address = server.address();
        for tokens in [30, 64, 650] {
            let ids = document(tokens);
            let state = post(address, "/v1/states", &json!({"prompt": ids, "name": "a document"})).json();
            assert_eq!((&state["tokens"], &state["name"]), (&tokens.into(), &"a document".into()), "{state}");
            assert!(state["bytes"].as_u64() > Some(100), "{state}");
            for question in [&[][..], &[70, 71], &document(90)] {
                let more = json!({"max_tokens": 9, "seed": 4, "logprobs": 2, "ignore_eos": true});
                let ask = |fields: Value| {
                    let mut body = more.clone();
                    body.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
                    let reply = post(address, "/v1/completions", &body);
                    assert_eq!(reply.status, 200, "{}", reply.text());
                    reply.json()
                };
                let mut behind = json!({"state": state["id"]});
                if !question.is_empty() {
                    behind["prompt"] = question.into();
                }
                let full = [&ids, question].concat();
                let (whole, behind) = (ask(json!({"prompt": full})), ask(behind));
                assert_eq!(whole["choices"], behind["choices"], "{blocks} {tokens} {}", question.len());
                assert_eq!(whole["usage"]["prompt_tokens"], behind["usage"]["prompt_tokens"]);
                let expected = if question.is_empty() { tokens } else { tokens / 64 * 64 };
                assert_eq!((cached(&whole), cached(&behind)), (0, expected as u64), "{behind}");
            }
        }
        server.stop();
    }
}

#[test]
fn a_conversation_goes_on_behind_its_beginning() {
    let server = serve(MAMBA, Settings::default());
    let address = server.address();
    let text = "An owner of a value frees it. ".repeat(20);
    let system = json!({"role": "system", "content": text});
    let body = json!({"messages": [system], "stream": true});
    let events = post(address, "/v1/states", &body).events();
    let (state, progress) = events.split_last().expect("events");
    assert!(progress.len() > 1 && progress.iter().all(|event| event["object"] == "state.progress"), "{progress:?}");
    let last = progress.last().expect("one");
    assert_eq!((&last["read"], &last["of"]), (&state["tokens"], &state["tokens"]), "{last}");
    let chat = |fields: Value| {
        let mut body = json!({"max_tokens": 8, "seed": 1, "logprobs": true, "stream": false});
        body.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        let reply = post(address, "/v1/chat/completions", &body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    };
    let question = json!({"role": "user", "content": "Who frees it?"});
    let whole = chat(json!({"messages": [system, question]}));
    let behind = chat(json!({"messages": [question], "state": state["id"]}));
    assert_eq!(
        (&whole["choices"], &whole["usage"]["prompt_tokens"]),
        (&behind["choices"], &behind["usage"]["prompt_tokens"])
    );
    assert!(cached(&behind) >= 576 && cached(&whole) == 0, "{behind}");
    // Behind a text, a conversation is put behind its tokens.
    let plain = post(address, "/v1/states", &json!({"prompt": text})).json();
    let plain_chat = chat(json!({"messages": [question], "state": plain["id"], "return_token_ids": true}));
    assert_eq!(plain_chat["choices"][0]["token_ids"].as_array().map(Vec::len), Some(8), "{plain_chat}");
    server.stop();
}

/// A file goes on as `longreach generate --load-state` would, whatever else runs; a damaged one and another model's are refused.
#[test]
fn files_are_taken_and_given() {
    let (engine, question) = (tiny::engine(MAMBA), document(600));
    let server = Server::bind(Settings { port: 0, ..Settings::default() }).expect("bound");
    let decoder = |name: &str, engine: Engine| Model { names: vec![name.into()], loaded: Loaded::Decoder(engine) };
    server.load(vec![decoder("windows", tiny::engine(WINDOW)), decoder("states", engine.clone())]).expect("loaded");
    let address = server.address();
    let sampler = Sampler::new(Sampling::greedy()).expect("valid options");
    let mut session = engine.session();
    session.read(&document(100)).expect("read");
    // Written tokens: the state is none that reading leaves.
    session.read(&[5]).expect("read");
    let mut file = Vec::new();
    session.save_to(&mut file, &sampler).expect("saved");
    let reply = upload(address, "/v1/states?name=my%20file", &file);
    let state = reply.json();
    assert_eq!((&state["model"], &state["name"], &state["tokens"]), (&"states".into(), &"my file".into(), &101.into()));
    session.read(&question).expect("read");
    let greedy = engine.tokenizer().expect("a tokenizer");
    let mut ids = Vec::new();
    let mut sampler = sampler;
    for _ in 0..6 {
        ids.push(session.next_token(&mut sampler).expect("a token"));
    }
    let body = json!({"state": state["id"], "prompt": question, "temperature": 0, "max_tokens": 6, "ignore_eos": true,
        "return_token_ids": true});
    // Other answers are written meanwhile.
    let mut other = Connection::open(address);
    let busy = json!({"model": "states", "prompt": "x", "max_tokens": 400, "ignore_eos": true});
    other.ask("POST", "/v1/completions", &[], &busy.to_string());
    let answer = post(address, "/v1/completions", &body).json();
    assert_eq!(answer["choices"][0]["token_ids"], json!(ids), "{answer} {:?}", greedy.decode(&ids));
    assert_eq!((cached(&answer), &answer["usage"]["prompt_tokens"]), (101, &701.into()));
    assert_eq!(other.reply().expect("an answer").status, 200);
    // What comes back is what was sent.
    let content = get(address, &format!("/v1/states/{}/content", state["id"].as_str().expect("an id")));
    assert_eq!(content.header("content-type"), Some("application/octet-stream"));
    assert!(content.body == file, "the file changed");
    let mut damaged = file.clone();
    let middle = damaged.len() - 1000;
    damaged[middle] ^= 4;
    let refused = upload(address, "/v1/states", &damaged);
    assert_eq!(
        (refused.status, &refused.json()["error"]["code"]),
        (400, &"invalid_value".into()),
        "{}",
        refused.text()
    );
    assert!(refused.text().contains("damaged"));
    for (path, file, status) in
        [("/v1/states?model=windows", &file[..], 409), ("/v1/states", b"nothing", 400), ("/v1/states?x=1", &file, 400)]
    {
        assert_eq!(upload(address, path, file).status, status, "{path}");
    }
    let wrong = post(address, "/v1/completions", &json!({"state": state["id"], "model": "windows"}));
    assert_eq!((wrong.status, &wrong.json()["error"]["code"]), (409, &"state_mismatch".into()));
    let echo = post(address, "/v1/completions", &json!({"state": state["id"], "echo": true}));
    assert_eq!((echo.status, &echo.json()["error"]["param"]), (400, &"echo".into()));
    server.stop();
}

#[test]
fn states_are_of_their_key_and_bounded() {
    let settings = Settings { keys: vec!["a".into(), "b".into()], states: 200_000, ..Settings::default() };
    let server = serve(MAMBA, settings);
    let with = |key: &str, method: &str, path: &str, body: &str| {
        ask(server.address(), method, path, &[("authorization", &format!("Bearer {key}"))], body)
    };
    let body = json!({"prompt": document(100)}).to_string();
    let state = with("a", "POST", "/v1/states", &body).json();
    let path = format!("/v1/states/{}", state["id"].as_str().expect("an id"));
    assert_eq!(with("a", "GET", &path, "").json(), state);
    assert_eq!(with("a", "GET", "/v1/states", "").json()["data"], json!([state]));
    assert_eq!(with("b", "GET", "/v1/states", "").json()["data"], json!([]));
    let asking = json!({"state": state["id"], "prompt": "x", "max_tokens": 1}).to_string();
    assert_eq!(with("a", "POST", "/v1/completions", &asking).status, 200);
    for (method, path, body) in [
        ("GET", path.clone(), ""),
        ("DELETE", path.clone(), ""),
        ("GET", format!("{path}/content"), ""),
        ("POST", "/v1/completions".into(), &asking[..]),
    ] {
        let reply = with("b", method, &path, body);
        assert_eq!((reply.status, &reply.json()["error"]["code"]), (404, &"state_not_found".into()), "{method} {path}");
    }
    // Until there is no room.
    let full = (0..1000).map(|_| with("b", "POST", "/v1/states", &body)).find(|reply| reply.status != 200);
    let full = full.expect("a bound");
    assert_eq!((full.status, &full.json()["error"]["code"]), (400, &"states_full".into()), "{}", full.text());
    assert_eq!(with("a", "DELETE", &path, "").json()["deleted"], true);
    assert_eq!(with("a", "GET", &path, "").status, 404);
    assert_eq!(with("b", "POST", "/v1/states", &body).status, 200);
    server.stop();
}
