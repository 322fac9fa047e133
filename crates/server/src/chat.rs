//! `POST /v1/chat/completions`

use longreach_engine::scheduler::{Structure, Thoughts};
use longreach_engine::{Engine, Error, Message};
use serde_json::{Map, Value, json};

use crate::answer::Shape;
use crate::asked::{Asked, MOST_LOGPROBS, refuse};
use crate::documents::Own;
use crate::documents::asked::{Documents, Sources};
use crate::fields::{Fields, parse, wrong};
use crate::generate::Work;
use crate::jobs::Jobs;
use crate::messages::messages;
use crate::refusal::Refusal;
use crate::schema;
use crate::served::Models;
use crate::settings::Settings;
use crate::states::{Mine, Named, Text};
use crate::structure::refuse_cuts;
use crate::tell::Prompt;
use crate::tools::Tools;

/// Reads a request.
pub(crate) fn prepare(
    body: &[u8],
    models: &Models,
    settings: &Settings,
    (mine, own, jobs): (&Mine, &Own, &Jobs),
) -> Result<Work, Refusal> {
    let map = parse(body)?;
    let f = Fields::new(&map);
    let known = schema::names(&[schema::WRITING, schema::CHAT]);
    let ignored = f.unknown(&known, settings.lenient)?;
    let mut asked = Asked::read(&f, models, mine, ignored)?;
    refuse(
        &f,
        &[
            ("functions", &[json!([])]),
            ("function_call", &["none".into(), "auto".into()]),
            ("modalities", &[json!(["text"])]),
            ("audio", &[]),
            ("web_search_options", &[]),
            ("moderation", &[]),
            ("store", &[false.into()]),
        ],
    )?;
    let most = most(&f, settings)?;
    let (mut messages, mut more) = (messages(&f, &asked.engine)?, variables(&f, &asked.engine)?);
    let going_on = f.flag("continue_final_message")?.unwrap_or(false);
    let end = if going_on { End::Open } else { End::Asking };
    if let Some(Text::Known { messages: Some((before, variables)), .. }) = asked.state.as_ref().map(|state| &state.text)
    {
        messages.splice(..0, before.iter().cloned());
        for (name, value) in variables {
            more.entry(name).or_insert_with(|| value.clone());
        }
    }
    let tools = Tools::read(&f)?;
    if let Some(tools) = &tools {
        asked.structure = called(&f, tools, &asked, models)?;
        if tools.is_forced() {
            asked.stops.clear();
        }
        tools.show(&asked.engine, &mut messages, &mut more);
    }
    let documents = Documents::read(&f, own)?;
    let answers = most.unwrap_or(settings.most_tokens.min(TOKENS));
    let sources = documents.map(|documents| documents.put(&asked.engine, &mut messages, answers, jobs)).transpose()?;
    let (ids, inside) = encoded(&asked.engine, &messages, &more, end)?;
    let ids = match asked.state.as_deref() {
        Some(state) => behind(state, ids, &asked.engine)?,
        None => ids,
    };
    let before = asked.state.as_ref().map_or(0, |state| state.before());
    crate::completions::within(&asked.engine, &ids)?;
    settings.check_input(before + ids.len(), "messages")?;
    let most = asked.room(most, settings.most_tokens, before + ids.len(), "max_completion_tokens")?;
    let logprobs = logprobs(&f)?;
    let mut ends_of_messages = ends(&asked.engine, &messages, &more, &ids)?;
    if let Some(Sources { whole: Some(place), .. }) = &sources {
        ends_of_messages.push(end_of_documents(&asked.engine, &messages, *place, &more, &ids)?);
        ends_of_messages.sort_unstable();
    }
    let prompts = vec![Prompt { ids, before, echo: None }];
    let thoughts = Thoughts::Apart { inside };
    Ok(Work {
        asked,
        shape: Shape::Chat,
        prompts,
        most,
        logprobs,
        prompt_logprobs: None,
        thoughts,
        ends_of_messages,
        sources,
    })
}

/// The structure of an answer that may call functions.
fn called(f: &Fields<'_>, tools: &Tools, asked: &Asked, models: &Models) -> Result<Structure, Refusal> {
    if !matches!(asked.structure, Structure::None) {
        let name = if f.get("grammar").is_some() { "grammar" } else { "response_format" };
        let message = format!("`{name}`: not with `tools`, unless `tool_choice` is none");
        return Err(Refusal::unsupported(name, message));
    }
    if tools.is_forced() {
        refuse_cuts(f, "tool_choice")?;
    }
    tools.structure(&asked.engine, &asked.served.id, &models.grammars)
}

/// The tokens of a conversation behind a state. One that has read messages is a beginning of the conversation; behind another text, the tokens that stand
/// before every text are left out.
fn behind(state: &Named, ids: Vec<u32>, engine: &Engine) -> Result<Vec<u32>, Refusal> {
    if let Text::Known { messages: Some(_), .. } = state.text {
        return Ok(ids);
    }
    let prefix = engine.tokenizer()?.prefix()?;
    Ok([state.ids(), ids.strip_prefix(&prefix[..]).unwrap_or(&ids)].concat())
}

/// Tokens that are left for an answer from documents, if a request does not say.
const TOKENS: usize = 256;

/// The number of tokens up to the end of documents that are read whole: other questions about them share these, and a state is worth keeping there.
fn end_of_documents(
    engine: &Engine,
    messages: &[Message],
    (message, length): (usize, usize),
    more: &Map<String, Value>,
    ids: &[u32],
) -> Result<usize, Refusal> {
    // The same with another question.
    let mut other = messages.to_vec();
    let content = &mut other[message].content;
    let (documents, question) = content.split_at(length);
    *content = format!("{documents}{}", if question.starts_with('?') { "!" } else { "?" });
    let other = encoded(engine, &other, more, End::Asking)?.0;
    Ok(ids.iter().zip(&other).take_while(|(a, b)| a == b).count())
}

/// How many messages from the end are looked at for places where a state is worth keeping.
const ENDS: usize = 4;

/// The numbers of tokens after which the last messages end, as far as the text up to there has the same tokens by itself. Another conversation goes on from
/// the state at one of them if it begins in the same way.
fn ends(engine: &Engine, messages: &[Message], more: &Map<String, Value>, ids: &[u32]) -> Result<Vec<usize>, Refusal> {
    let mut ends = Vec::new();
    // A state costs more than reading a few tokens.
    if ids.len() < 128 || engine.chat_template().is_err() {
        return Ok(ends);
    }
    for last in (1..messages.len()).rev().take(ENDS) {
        // A template may refuse a part of a conversation that it takes as a whole.
        let Ok(text) = rendered_closed(engine, &messages[..last], more) else { continue };
        let own = engine.tokenizer()?.encode(&text)?;
        if ids.starts_with(&own) {
            ends.push(own.len());
        }
    }
    ends.reverse();
    Ok(ends)
}

fn rendered_closed(engine: &Engine, messages: &[Message], more: &Map<String, Value>) -> Result<String, Error> {
    engine.chat_template()?.render(messages, false, more)
}

fn most(f: &Fields<'_>, settings: &Settings) -> Result<Option<usize>, Refusal> {
    let read = |name: &str| f.whole(name, 1..=settings.most_tokens as i64);
    let (new, old) = (read("max_completion_tokens")?, read("max_tokens")?);
    match (new, old) {
        (Some(new), Some(old)) if new != old => {
            let message = format!("`max_completion_tokens` is {new} and `max_tokens` is {old}: want one of them");
            Err(Refusal::value("max_tokens", message))
        }
        (new, old) => Ok(new.or(old).map(|most| most as usize)),
    }
}

fn logprobs(f: &Fields<'_>) -> Result<Option<usize>, Refusal> {
    let wanted = f.flag("logprobs")?.unwrap_or(false);
    match f.whole("top_logprobs", 0..=MOST_LOGPROBS)? {
        Some(top) if !wanted && top > 0 => {
            Err(Refusal::value("top_logprobs", "`top_logprobs`: only with `logprobs: true`"))
        }
        top => Ok(wanted.then_some(top.unwrap_or(0) as usize)),
    }
}

/// The variables of the template.
pub(crate) fn variables(f: &Fields<'_>, engine: &Engine) -> Result<Map<String, Value>, Refusal> {
    let mut more = match f.get("chat_template_kwargs") {
        None => Map::new(),
        Some(Value::Object(map)) => map.clone(),
        Some(other) => return Err(wrong("chat_template_kwargs", "an object", other)),
    };
    for name in ["messages", "add_generation_prompt"] {
        if more.contains_key(name) {
            let path = format!("chat_template_kwargs.{name}");
            return Err(Refusal::value(&path, format!("`{path}` comes from the request itself")));
        }
    }
    if let Some(effort) = f.text("reasoning_effort")? {
        if !engine.chat_template().is_ok_and(|template| template.source().contains("reasoning_effort")) {
            let message = "`reasoning_effort`: the chat template of the model takes none";
            return Err(Refusal::unsupported("reasoning_effort", message));
        }
        more.insert("reasoning_effort".into(), effort.into());
    }
    Ok(more)
}

/// How the text of a conversation ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Where the answer begins.
    Asking,
    /// Within the last message, which is the assistant's.
    Open,
    /// Behind the last message.
    Closed,
}

/// The tokens of a conversation, and whether they end behind the tag at which thinking begins.
///
/// A special token that is written in a message is text: it is broken by a character that occurs in no message, which is removed again before the parts are
/// tokenized, each by itself.
pub(crate) fn encoded(
    engine: &Engine,
    messages: &[Message],
    more: &Map<String, Value>,
    end: End,
) -> Result<(Vec<u32>, bool), Refusal> {
    let tokenizer = engine.tokenizer()?;
    // What comes from the client: messages, and the functions among the variables.
    let given = serde_json::to_value(messages).unwrap_or_default();
    let tools = more.get("tools").cloned().unwrap_or_default();
    let contains = |part: &str| holds(&given, part) || holds(&tools, part);
    let special: Vec<String> =
        tokenizer.added().into_iter().filter(|token| token.chars().count() > 1 && contains(token)).collect();
    if special.is_empty() {
        let text = rendered(engine, messages, more, end)?;
        return Ok((tokenizer.encode(&text)?, thinks(&text)));
    }
    let mark = ('\u{e000}'..='\u{f8ff}').find(|mark| !contains(mark.encode_utf8(&mut [0; 4])));
    let mark =
        mark.ok_or_else(|| Refusal::value("messages", "`messages`: every private character of Unicode occurs"))?;
    let given = within(given, &|text| broken(text, &special, mark));
    let messages: Vec<Message> = serde_json::from_value(given).map_err(|_| Refusal::internal())?;
    let mut more = more.clone();
    if let Some(tools) = more.get_mut("tools") {
        *tools = within(tools.take(), &|text| broken(text, &special, mark));
    }
    let text = rendered(engine, &messages, &more, end)?;
    let mut ids = Vec::new();
    for part in text.split(mark).filter(|part| !part.is_empty()) {
        ids.extend(tokenizer.encode(part)?);
    }
    Ok((ids, thinks(&text.replace(mark, ""))))
}

/// Whether a text, or a name, within a value contains a part.
fn holds(value: &Value, part: &str) -> bool {
    match value {
        Value::String(text) => text.contains(part),
        Value::Array(list) => list.iter().any(|value| holds(value, part)),
        Value::Object(map) => {
            map.iter().any(|(name, value)| (!FIELDS.contains(&&**name) && name.contains(part)) || holds(value, part))
        }
        _ => false,
    }
}

/// The fields of messages and functions, which are no text of the client.
const FIELDS: [&str; 11] = [
    "role",
    "content",
    "reasoning_content",
    "tool_calls",
    "tool_call_id",
    "name",
    "id",
    "type",
    "function",
    "arguments",
    "parameters",
];

/// A value with all of its texts and names changed.
fn within(value: Value, by: &impl Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => by(&text).into(),
        Value::Array(list) => list.into_iter().map(|value| within(value, by)).collect(),
        Value::Object(map) => map
            .into_iter()
            .map(|(name, value)| (if FIELDS.contains(&&*name) { name } else { by(&name) }, within(value, by)))
            .collect::<Map<_, _>>()
            .into(),
        other => other,
    }
}

/// A text in which none of the strings occurs, since `mark` stands behind the first character of each, and within whatever that would leave.
fn broken(text: &str, special: &[String], mark: char) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        out.push(first);
        if special.iter().any(|token| rest.starts_with(token.as_str())) {
            out.push(mark);
        }
        rest = &rest[first.len_utf8()..];
    }
    out
}

/// Whether an answer behind this text begins within a thought.
fn thinks(text: &str) -> bool {
    let end = text.trim_end();
    ["<think>", "[THINK]", "<seed:think>", "<|START_THINKING|>", "<|channel>thought"]
        .iter()
        .any(|tag| end.ends_with(tag))
}

/// The text of a conversation: by the model's template, or its contents with an empty line between them.
fn rendered(engine: &Engine, messages: &[Message], more: &Map<String, Value>, end: End) -> Result<String, Refusal> {
    let going_on = end == End::Open;
    let last = match messages.last() {
        Some(last) if going_on && last.role != "assistant" => {
            let message = "`continue_final_message`: the last message is not the assistant's";
            return Err(Refusal::value("continue_final_message", message));
        }
        last => last.filter(|_| going_on),
    };
    let text = match engine.chat_template() {
        Ok(template) => template.render(messages, end == End::Asking, more)?,
        Err(Error::NoTemplate(_)) => {
            let contents: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
            contents.join("\n\n") + if last.is_some() { "" } else { "\n\n" }
        }
        Err(error) => return Err(error.into()),
    };
    let Some(last) = last else { return Ok(text) };
    let content = last.content.trim();
    let end = text.rfind(content).map(|at| at + content.len());
    let end = end.ok_or_else(|| {
        Refusal::value("continue_final_message", "`continue_final_message`: the chat template changes the last message")
    })?;
    Ok(text[..end].to_owned())
}
