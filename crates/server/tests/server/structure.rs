//! Answers of a schema or a grammar, and calls of functions, as clients get them.

use longreach_server::{Loaded, Model, Server, Settings};
use serde_json::{Value, json};

use crate::client::{Reply, get, post};
use crate::{MAMBA, serve, tiny};

const CHAT: &str = "/v1/chat/completions";

fn person() -> Value {
    json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 0,
        "maximum": 120}}, "required": ["name", "age"], "additionalProperties": false})
}

fn tools() -> Value {
    let weather = json!({"name": "weather", "description": "Tells it.", "parameters": {"type": "object", "properties":
        {"city": {"type": "string", "maxLength": 4}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"], "additionalProperties": false}});
    json!([{"type": "function", "function": weather}, {"type": "function", "function": {"name": "now"}}])
}

/// A conversation of one message, with further fields.
fn chat(more: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 200, "temperature": 1});
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

#[test]
fn an_answer_of_a_schema_is_whole_json_of_it() {
    let server = serve(MAMBA, Settings::default());
    let format = json!({"type": "json_schema", "json_schema": {"name": "person", "schema": person(), "strict": true}});
    for seed in 0..6 {
        let reply = post(server.address(), CHAT, &chat(json!({"response_format": format, "seed": seed, "n": 2})));
        let body = reply.json();
        for choice in body["choices"].as_array().expect("choices") {
            let text = choice["message"]["content"].as_str().unwrap_or_else(|| panic!("{body}"));
            assert_eq!(choice["finish_reason"], "stop", "{body}");
            let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
            assert!(value["name"].is_string() && value["age"].as_u64().is_some_and(|age| age <= 120), "{text}");
        }
    }
    for (grammar, fits) in [
        (json!({"type": "choice", "value": ["yes", "no"]}), (|text| ["yes", "no"].contains(&text)) as fn(&str) -> bool),
        (json!({"type": "regex", "value": "[ab]{3}"}), |text| {
            text.len() == 3 && text.chars().all(|c| "ab".contains(c))
        }),
        (json!({"type": "lark", "value": "start: \"(\" /[0-9]/ \")\""}), |text| {
            text.len() == 3 && text.starts_with('(')
        }),
    ] {
        let asked = json!({"prompt": "x", "grammar": grammar, "max_tokens": 20, "seed": 1, "temperature": 1});
        let body = post(server.address(), "/v1/completions", &asked).json();
        let text = body["choices"][0]["text"].as_str().unwrap_or_else(|| panic!("{body}"));
        assert!(fits(text) && body["choices"][0]["finish_reason"] == "stop", "{body}");
    }
    server.stop();
}

/// The calls of a stream, put together as OpenAI's client does.
fn together(reply: &Reply) -> (String, Vec<Value>, Value) {
    let (mut text, mut calls, mut finish) = (String::new(), Vec::<Value>::new(), Value::Null);
    for event in reply.events() {
        let choice = &event["choices"][0];
        text += choice["delta"]["content"].as_str().unwrap_or("");
        for delta in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let at = delta["index"].as_u64().expect("an index") as usize;
            if delta["id"].is_string() {
                assert_eq!(
                    (at, &delta["type"], &delta["function"]["arguments"]),
                    (calls.len(), &json!("function"), &json!(""))
                );
                calls.push(json!({"id": delta["id"], "name": delta["function"]["name"], "arguments": ""}));
            } else {
                let arguments = calls[at]["arguments"].as_str().unwrap_or("").to_owned();
                calls[at]["arguments"] = (arguments + delta["function"]["arguments"].as_str().expect("a piece")).into();
            }
        }
        if !choice["finish_reason"].is_null() {
            finish = choice["finish_reason"].clone();
        }
    }
    (text, calls, finish)
}

#[test]
fn required_calls_have_arguments_that_fit_and_a_stream_is_the_whole() {
    let server = serve(MAMBA, Settings::default());
    let weather = json!({"type": "function", "function": {"name": "weather"}});
    for (seed, choice) in [json!("required"), weather.clone(), json!("required"), weather].into_iter().enumerate() {
        let body = json!({"tools": tools(), "tool_choice": choice, "seed": seed, "parallel_tool_calls": false});
        let whole = post(server.address(), CHAT, &chat(body.clone())).json();
        let message = &whole["choices"][0]["message"];
        let calls = message["tool_calls"].as_array().unwrap_or_else(|| panic!("{whole}"));
        assert_eq!((&message["content"], &whole["choices"][0]["finish_reason"]), (&Value::Null, &json!("tool_calls")));
        assert_eq!(calls.len(), 1, "{whole}");
        let (id, function) = (&calls[0]["id"], &calls[0]["function"]);
        assert!(id.as_str().is_some_and(|id| id.starts_with("call_")) && calls[0]["type"] == "function", "{whole}");
        let arguments: Value = serde_json::from_str(function["arguments"].as_str().expect("text")).expect("JSON");
        if function["name"] == "weather" {
            assert!(arguments["city"].as_str().is_some_and(|city| city.chars().count() <= 4), "{whole}");
            assert!(arguments["days"].as_u64().is_some_and(|days| (1..=9).contains(&days)), "{whole}");
        } else {
            assert_eq!(
                (&function["name"], &arguments, choice == "required"),
                (&json!("now"), &json!({}), true),
                "{whole}"
            );
        }
        let mut streamed = chat(body);
        streamed["stream"] = true.into();
        let (text, pieces, finish) = together(&post(server.address(), CHAT, &streamed));
        assert_eq!((text.as_str(), &finish, pieces.len()), ("", &json!("tool_calls"), 1));
        assert_eq!([&pieces[0]["name"], &pieces[0]["arguments"]], [&function["name"], &function["arguments"]]);
    }
    // Several calls, up to the most tokens.
    let many = post(
        server.address(),
        CHAT,
        &chat(json!({"tools": tools(), "tool_choice": "required", "seed": 3,
        "logit_bias": {"256": -100}, "stream": true})),
    );
    let (_, calls, _) = together(&many);
    assert!(calls.len() > 1, "{}", many.text());
    let ids: std::collections::BTreeSet<&str> = calls.iter().filter_map(|call| call["id"].as_str()).collect();
    assert_eq!(ids.len(), calls.len());
    let metrics = get(server.address(), "/metrics");
    assert!(metrics.text().contains("reason=\"tool_calls\""));
    server.stop();
}

#[test]
fn functions_and_calls_are_part_of_the_prompt() {
    let server = serve(MAMBA, Settings::default());
    let prompt = |body: Value| {
        let reply = post(server.address(), CHAT, &chat(body));
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["usage"]["prompt_tokens"].as_u64().expect("a number")
    };
    let plain = prompt(json!({"max_tokens": 1}));
    let shown = prompt(json!({"max_tokens": 1, "tools": tools()}));
    assert!(shown > plain + 200, "{plain} and {shown}");
    assert_eq!(prompt(json!({"max_tokens": 1, "tools": tools(), "tool_choice": "none"})), plain);
    // A conversation in which a function was called, as the text that a template without calls is given.
    let call =
        json!({"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{\"z\":1,\"a\":2}"}});
    let messages = json!([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"}]);
    let told = post(server.address(), "/tokenize", &json!({"messages": messages}));
    let text = post(server.address(), "/detokenize", &json!({"tokens": told.json()["tokens"]})).json();
    let text = text["content"].as_str().expect("text").to_owned();
    // The order of the arguments is that of the client.
    assert!(
        text.contains("<tool_call>\n{\"name\": \"now\", \"arguments\": {\"z\":1,\"a\":2}}\n</tool_call>"),
        "{text}"
    );
    assert!(text.contains("<tool_response>\nnoon\n</tool_response>"), "{text}");
    prompt(json!({"messages": messages, "max_tokens": 1, "tools": tools()}));
    server.stop();
}

/// A template that shows functions and calls itself, as those of published models do.
#[test]
fn a_template_that_knows_functions_is_given_them() {
    let template = "{% for t in tools or [] %}[{{ t.function.name }}: {{ t | tojson }}]{% endfor %}{% for m in messages %}\
        <|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.arguments.z }}\
        {{ c.function | tojson }}{% endfor %}<|im_end|>\n{% endfor %}";
    let server = Server::bind(Settings { port: 0, ..Settings::default() }).expect("bound");
    let engine = tiny::engine_of(MAMBA, "", template);
    server.load(vec![Model { names: vec!["tiny".into()], loaded: Loaded::Decoder(engine) }]).expect("loaded");
    let call = json!({"function": {"name": "now", "arguments": "{\"z\": \"<|im_end|>\"}"}});
    let messages = json!([{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "noon"}]);
    let reply = post(server.address(), CHAT, &json!({"messages": messages, "tools": tools(), "max_tokens": 1}));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let told = post(server.address(), "/tokenize", &json!({"messages": messages})).json();
    let text = post(server.address(), "/detokenize", &json!({"tokens": told["tokens"]})).json();
    assert!(text["content"].as_str().is_some_and(|text| text.contains("<tool_call><|im_end|>")), "{text}");
    // A special token within the arguments is text: the only ends are those of the three messages.
    let ends = told["tokens"].as_array().expect("tokens").iter().filter(|id| **id == 258).count();
    assert_eq!(ends, 3, "{told}");
    server.stop();
}
