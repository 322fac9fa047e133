//! Chat templates render as in transformers, and conversations are answered from their own state.

use longreach_engine::{Cancel, ChatTemplate, Conversation, Ended, Engine, Message, Sampler, Sampling};
use longreach_models::Progress;
use serde_json::{Map, Value};

struct Case {
    name: String,
    template: String,
    messages: Vec<Message>,
    prompt: bool,
    variables: Map<String, Value>,
    want: Result<String, String>,
}

fn cases() -> Vec<Case> {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/chat.json");
    let json: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(file).expect("the goldens")).expect("JSON");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    json.iter()
        .map(|case| Case {
            name: text(&case["name"]),
            template: text(&case["template"]),
            messages: serde_json::from_value(case["messages"].clone()).expect("messages"),
            prompt: case["prompt"].as_bool().expect("true or false"),
            variables: case["variables"].as_object().expect("an object").clone(),
            want: case.get("text").map(text).ok_or_else(|| text(&case["error"])),
        })
        .collect()
}

#[test]
fn templates_render_as_in_transformers() {
    let (mut rendered, mut refused) = (0, 0);
    for case in cases() {
        let template = ChatTemplate::new("a template", case.template);
        let got = template.render(&case.messages, case.prompt, &case.variables);
        match case.want {
            Ok(want) => {
                assert_eq!(got.expect("rendered"), want, "{}: {:?}", case.name, case.messages);
                rendered += 1;
            }
            Err(want) => {
                let said = got.expect_err("refused").to_string();
                assert!(said.contains(&want), "{}: {said}, want {want}", case.name);
                refused += 1;
            }
        }
    }
    assert!(rendered > 30 && refused > 5, "{rendered} {refused}");
}

#[test]
fn a_template_that_is_no_program_is_refused_with_its_line() {
    for (source, part) in [
        ("a\n{% if messages %}", "line 2"),
        ("{{ messages | no_such_filter }}", "no_such_filter"),
        ("{{ raise_exception('only user messages') }}", "only user messages"),
        ("{{ messages | tojson(sort_keys=true) }}", "tojson with `sort_keys` is not supported"),
    ] {
        let template = ChatTemplate::new("chat_template.jinja", source);
        let error = template.render(&[Message::new("user", "Hi")], true, &Map::new()).expect_err("refused").to_string();
        assert!(error.starts_with("chat_template.jinja: ") && error.contains(part), "{error}");
    }
}

/// The built-in model with a chat template.
fn engine() -> Engine {
    let from = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/default");
    let folder = tempfile::tempdir().expect("a directory");
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(from.join(file), folder.path().join(file)).expect("copied");
    }
    let template = "{% for message in messages %}{{ message.role }}:{{ message.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).expect("written");
    Engine::load(folder.path(), None, Progress::Hidden).expect("a model")
}

fn sampler() -> Sampler {
    Sampler::new(Sampling::greedy()).expect("valid options")
}

#[test]
fn answers_are_those_of_the_whole_conversation() {
    let engine = engine();
    let mut conversation = Conversation::new(&engine).expect("a template");
    conversation.add(Message::new("system", "Answer about Rust."));
    let mut told = String::new();
    let first =
        conversation.ask("What is a trait?", &mut sampler(), 12, |piece| told.push_str(piece)).expect("a reply");
    assert_eq!((first.written, &first.text, first.ended), (12, &told, Ended::Full));
    let second = conversation.ask("And a lifetime?", &mut sampler(), 12, |_| {}).expect("a reply");
    // The same text read at once.
    let text = engine.chat_template().expect("a template").render(&conversation.messages()[..4], true, &Map::new());
    let ids = engine.tokenizer().expect("a tokenizer").encode(&text.expect("a text")).expect("tokens");
    let mut whole = engine.session();
    whole.read(&ids).expect("read");
    assert_eq!(whole.write(12, Sampling::greedy()).expect("a text"), second.text);
    // What was read for the first answer is not read again.
    assert!(second.read <= ids.len() - first.read, "{} of {} tokens were read", second.read, ids.len());
    // Going back reads nothing again.
    assert_eq!(conversation.undo().as_deref(), Some("And a lifetime?"));
    assert_eq!(conversation.messages().len(), 3);
    let again = conversation.ask("And a lifetime?", &mut sampler(), 12, |_| {}).expect("a reply");
    assert_eq!(again.text, second.text);
    assert_eq!(again.read, 0);
}

#[test]
fn a_cancelled_answer_is_kept_and_a_failed_one_leaves_no_message() {
    let engine = engine();
    let mut conversation = Conversation::new(&engine).expect("a template");
    let cancel = Cancel::default();
    conversation.set_cancel(cancel.clone());
    let mut pieces = 0;
    let reply = conversation.ask("What is a trait?", &mut sampler(), 50, |_| {
        pieces += 1;
        if pieces == 3 {
            cancel.cancel();
        }
    });
    let reply = reply.expect("a reply");
    assert_eq!(reply.ended, Ended::Cancelled);
    assert!(!reply.text.is_empty() && reply.written < 50);
    assert_eq!(conversation.messages().last(), Some(&Message::new("assistant", reply.text)));
    // With the flag still set, the next message is not read.
    conversation.ask("And a lifetime?", &mut sampler(), 5, |_| {}).expect_err("cancelled");
    assert_eq!(conversation.messages().len(), 2);
}

#[test]
fn a_model_without_a_template_says_so() {
    let engine = Engine::embedded(None).expect("the built-in model");
    let error = Conversation::new(&engine).err().expect("refused").to_string();
    assert!(error.contains("has no chat template") && error.contains("`generate`"), "{error}");
}
