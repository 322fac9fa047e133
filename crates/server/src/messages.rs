//! The messages of a conversation.

use longreach_engine::{Engine, Message};
use serde_json::Value;

use crate::fields::{Fields, wrong};
use crate::refusal::Refusal;
use crate::tools::{as_text, calls};

/// The messages, with calls of functions as the model's chat template takes them.
pub(crate) fn messages(f: &Fields<'_>, engine: &Engine) -> Result<Vec<Message>, Refusal> {
    let list = f.want("messages")?;
    let list = list.as_array().ok_or_else(|| wrong("messages", "a list", list))?;
    if list.is_empty() {
        return Err(Refusal::value("messages", "`messages`: the list is empty"));
    }
    let read = list.iter().enumerate().map(|(i, message)| read_message(message, &format!("messages[{i}]")));
    let mut messages = read.collect::<Result<Vec<_>, _>>()?;
    as_text(engine, &mut messages);
    Ok(messages)
}

fn read_message(message: &Value, path: &str) -> Result<Message, Refusal> {
    let f = Fields::of(message, path)?;
    f.unknown(
        &[
            "role",
            "content",
            "name",
            "tool_calls",
            "tool_call_id",
            "refusal",
            "reasoning_content",
            "audio",
            "function_call",
            "annotations",
        ],
        false,
    )?;
    let role = f.want("role")?;
    let role = role.as_str().ok_or_else(|| wrong(&f.path("role"), "a string", role))?;
    let role = match role {
        "developer" => "system",
        "system" | "user" | "assistant" | "tool" => role,
        other => {
            let other: String = other.chars().take(40).collect();
            let message =
                format!("`{}`: want system, developer, user, assistant or tool, found {other}", f.path("role"));
            return Err(Refusal::value(f.path("role"), message));
        }
    };
    for name in ["function_call", "audio"] {
        if f.get(name).is_some_and(|value| value.as_array().is_none_or(|list| !list.is_empty())) {
            return Err(Refusal::unsupported(
                f.path(name),
                format!("`{}` is not supported by this server", f.path(name)),
            ));
        }
    }
    let tool_calls = calls(&f)?;
    if role != "assistant" && !tool_calls.is_empty() {
        let path = f.path("tool_calls");
        return Err(Refusal::value(&path, format!("`{path}`: only in messages of the assistant")));
    }
    let content = match f.get("content") {
        None if role == "assistant" => String::new(),
        None => {
            return Err(Refusal::field(
                "missing_required",
                f.path("content"),
                format!("`{}` is missing", f.path("content")),
            ));
        }
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let part = |(i, part): (usize, &Value)| text_part(part, &format!("{}[{i}]", f.path("content")));
            parts.iter().enumerate().map(part).collect::<Result<Vec<_>, _>>()?.concat()
        }
        Some(other) => return Err(wrong(&f.path("content"), "a string or a list of parts", other)),
    };
    let reasoning_content = f.text("reasoning_content")?.map(str::to_owned);
    let tool_call_id = f.text("tool_call_id")?.map(str::to_owned);
    let name = f.text("name")?.filter(|_| role == "tool").map(str::to_owned);
    Ok(Message { reasoning_content, tool_calls, tool_call_id, name, ..Message::new(role, content) })
}

/// A part of a message: text.
fn text_part(part: &Value, path: &str) -> Result<String, Refusal> {
    let f = Fields::of(part, path)?;
    match f.text("type")? {
        Some("text") => {
            let text = f.want("text")?;
            Ok(text.as_str().ok_or_else(|| wrong(&f.path("text"), "a string", text))?.to_owned())
        }
        kind => {
            let found: String = kind.unwrap_or("none").chars().take(40).collect();
            let message = format!("`{path}`: want a part of type text, found {found}: this server reads text alone");
            Err(Refusal::field("unsupported_content", path, message))
        }
    }
}
