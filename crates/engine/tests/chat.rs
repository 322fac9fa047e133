//! Chat templates render as in transformers, and conversations are answered from their own state.

use longreach_engine::{
    Cancel, ChatTemplate, Conversation, Ended, Engine, Message, Piece, Sampler, Sampling, Speculation,
};
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

fn words(piece: Piece<'_>) -> &str {
    match piece {
        Piece::Text(text) => text,
        Piece::Thinking(thought) => panic!("a model without tags thinks: {thought}"),
    }
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
        conversation.ask("What is a trait?", &mut sampler(), 12, |piece| told.push_str(words(piece))).expect("a reply");
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

/// Conversations with a sampled answer each turn.
fn sampled() -> Sampler {
    Sampler::new(Sampling { seed: 11, frequency_penalty: 0.3, ..Sampling::default() }).expect("valid options")
}

/// A conversation that was saved goes on as if it had not been: in another process, with the same random numbers.
#[test]
fn a_loaded_conversation_goes_on_as_the_saved_one() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("talk.state");
    let mut conversation = Conversation::new(&engine()).expect("a template");
    let mut first = sampled();
    assert!(conversation.save(&file, &first).expect_err("nothing yet").to_string().contains("has not answered yet"));
    conversation.add(Message::new("system", "Answer about Rust."));
    conversation.ask("What is a trait?", &mut first, 15, |_| {}).expect("a reply");
    conversation.ask("And a lifetime?", &mut first, 15, |_| {}).expect("a reply");
    conversation.save(&file, &first).expect("saved");
    let mut again = Conversation::new(&engine()).expect("a template");
    let mut second = sampler();
    again.load(&file, &mut second).expect("loaded");
    assert_eq!(again.messages(), conversation.messages());
    let want = conversation.ask("And ownership?", &mut first, 20, |_| {}).expect("a reply");
    let got = again.ask("And ownership?", &mut sampled_from(second), 20, |_| {}).expect("a reply");
    assert_eq!(got, want);
    // The turns are known.
    assert_eq!(again.undo().as_deref(), Some("And ownership?"));
    assert_eq!(again.undo().as_deref(), Some("And a lifetime?"));
    // The state of a text is none of a conversation.
    let mut session = engine().session();
    session.read_text("A trait is").expect("read");
    session.save(&file, &sampled()).expect("saved");
    let error = again.load(&file, &mut sampler()).expect_err("refused").to_string();
    assert!(error.contains("talk.state: the state of a text, not of a conversation"), "{error}");
    assert_eq!(again.messages().len(), 3);
}

/// A sampler with the options of the conversation, at the place of another in its random stream.
fn sampled_from(at: Sampler) -> Sampler {
    let mut sampler = sampled();
    sampler.resume(at.seed(), at.position());
    sampler
}

#[test]
fn an_answer_ends_before_a_stop_string_and_speculation_changes_nothing() {
    let engine = engine();
    let mut conversation = Conversation::new(&engine).expect("a template");
    let whole = conversation.ask("What is a trait?", &mut sampler(), 40, |_| {}).expect("a reply").text;
    // A string within the answer, across tokens.
    let start = whole.char_indices().nth(whole.chars().count() / 2).expect("an answer").0;
    let stop: String = whole[start..].chars().take(9).collect();
    let before = &whole[..whole.find(&stop).expect("it is there")];
    conversation.undo();
    conversation.stops = vec![stop];
    let mut told = String::new();
    let reply = conversation.ask("What is a trait?", &mut sampler(), 40, |piece| told.push_str(words(piece)));
    let reply = reply.expect("a reply");
    assert_eq!((&*reply.text, &*told, reply.ended), (before, before, Ended::Stopped));
    conversation.stops.clear();
    conversation.speculation = Speculation::lookup(&engine).expect("a model that takes proposals");
    conversation.undo();
    let again = conversation.ask("What is a trait?", &mut sampler(), 40, |_| {}).expect("a reply");
    assert_eq!(again.text, whole);
}

#[test]
fn thoughts_are_told_apart_and_left_out_of_later_turns() {
    let engine = engine();
    let file = "{% for message in messages %}{{ message.role }}:{{ message.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:<think>\n{% endif %}{# </think> #}";
    let folder = tempfile::tempdir().expect("a directory");
    let from = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/default");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(from.join(name), folder.path().join(name)).expect("copied");
    }
    std::fs::write(folder.path().join("chat_template.jinja"), file).expect("written");
    let thinking = Engine::load(folder.path(), None, Progress::Hidden).expect("a model");
    let mut conversation = Conversation::new(&thinking).expect("a template");
    let mut thought = String::new();
    let reply = conversation.ask("What is a trait?", &mut sampler(), 12, |piece| match piece {
        Piece::Thinking(piece) => thought.push_str(piece),
        Piece::Text(text) => panic!("an answer without an end of thoughts: {text}"),
    });
    let reply = reply.expect("a reply");
    assert_eq!((&*reply.text, &reply.thinking), ("", &thought));
    assert!(!thought.is_empty());
    assert_eq!(conversation.messages()[1].reasoning_content.as_ref(), Some(&thought));
    // The next prompt has the answer alone.
    conversation.add(Message::new("user", "And?"));
    let text = thinking.chat_template().expect("a template").render(conversation.messages(), true, &Map::new());
    assert_eq!(text.expect("a text"), "user:What is a trait?\nassistant:\nuser:And?\nassistant:<think>\n");
    drop(engine);
}
