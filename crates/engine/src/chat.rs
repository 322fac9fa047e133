//! Chat templates: from the messages of a conversation to the text that a model was trained on.
//!
//! A template is a Jinja program, run as transformers runs it: blocks are trimmed, methods of Python's strings and maps
//! work, `tojson` writes what Python's `json.dumps` writes, and undefined names are empty.

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value as Jinja};
use minijinja::{Environment, ErrorKind, State};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Error, vocabulary};

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who wrote it: `system`, `user` or `assistant`, or what else a template knows.
    pub role: String,
    /// The text.
    pub content: String,
    /// What the model thought before it answered. Templates know which of it belongs to later turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The calls of functions that the assistant made: objects with `id`, `type` and `function`, of which `arguments` is an object, as templates want it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Value>,
    /// Which call a message with the role `tool` answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// The function whose result such a message is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Message {
    /// A message of this role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
            reasoning_content: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
            name: None,
        }
    }
}

/// The chat template of a model, with the special tokens that it may write.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatTemplate {
    /// The file it was read from, for errors.
    file: String,
    source: String,
    special: Map<String, Value>,
}

/// The special tokens that templates refer to.
const SPECIAL: [&str; 7] = ["bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token"];

impl ChatTemplate {
    /// Reads the template of a model directory: `chat_template.jinja`, or else `chat_template` in
    /// `tokenizer_config.json`, of which the one called `default` if there are several. `None` if there is none. Errors if
    /// a file is damaged.
    pub fn load(directory: &Path) -> Result<Option<Self>, Error> {
        let settings = vocabulary::settings(directory)?;
        let special = SPECIAL.iter().map(|name| ((*name).to_owned(), vocabulary::special(&settings, name, "").into()));
        let special = special.filter(|(_, token): &(_, Value)| token != "").collect();
        let file = directory.join("chat_template.jinja");
        if file.is_file() {
            let source = std::fs::read_to_string(&file).map_err(|source| Error::Io { path: file.clone(), source })?;
            return Ok(Some(Self { file: file.display().to_string(), source, special }));
        }
        let file = directory.join("tokenizer_config.json").display().to_string();
        let source = match settings.get("chat_template") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(source)) => Some(source.clone()),
            Some(Value::Array(list)) => {
                let default = list.iter().find(|one| one.get("name").and_then(Value::as_str) == Some("default"));
                default.or(list.first()).and_then(|one| one.get("template")?.as_str()).map(str::to_owned)
            }
            Some(_) => None,
        };
        let Some(source) = source else {
            let message =
                "field `chat_template`: want a string, or a list of objects with `name` and `template`".into();
            return Err(Error::Template { file, message });
        };
        Ok(Some(Self { file, source, special }))
    }

    /// A template from its source; `file` is its name in errors.
    pub fn new(file: impl Into<String>, source: impl Into<String>) -> Self {
        Self { file: file.into(), source: source.into(), special: Map::new() }
    }

    /// The source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The same with special tokens that the template may refer to, by name.
    #[must_use]
    pub(crate) fn with_special(self, tokens: impl Iterator<Item = (String, String)>) -> Self {
        let special = tokens.map(|(name, token)| (name, token.into())).collect();
        Self { special, ..self }
    }

    /// Whether the program writes a string.
    pub(crate) fn mentions(&self, text: &str) -> bool {
        self.source.contains(text)
    }

    /// The text of a conversation, to be tokenized without adding special tokens: the template writes them itself. With
    /// `prompt` it ends where the assistant's next message begins. `more` are further variables, such as
    /// `enable_thinking`. Errors if the template is no valid program or refuses the messages.
    pub fn render(&self, messages: &[Message], prompt: bool, more: &Map<String, Value>) -> Result<String, Error> {
        let failed = |e: minijinja::Error| Error::Template { file: self.file.clone(), message: said(&e) };
        let source = without_generation_tags(&self.source);
        let environment = environment();
        let template = environment.template_from_named_str("chat_template", &source).map_err(failed)?;
        let mut variables = self.special.clone();
        variables.insert("messages".into(), serde_json::to_value(messages).unwrap_or_default());
        variables.insert("add_generation_prompt".into(), prompt.into());
        variables.extend(more.clone());
        template.render(Serde(&variables)).map_err(failed)
    }
}

/// The message of an error of a template, with its line.
fn said(error: &minijinja::Error) -> String {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        // What a template says by `raise_exception` speaks for itself.
        Some(line) if error.kind() != ErrorKind::InvalidOperation || error.detail().is_none() => {
            format!("line {line}: {detail}")
        }
        _ => detail,
    }
}

/// The environment that transformers gives to templates.
fn environment<'a>() -> Environment<'a> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters"));
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", |message: String| -> Result<Jinja, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| chrono::Local::now().format(&format).to_string());
    environment
}

/// Methods of Python's values that minijinja lacks.
fn method(state: &mut State<'_, '_>, value: &Jinja, name: &str, args: &[Jinja]) -> Result<Jinja, minijinja::Error> {
    let text = value.as_str();
    match (name, text, args) {
        ("removeprefix", Some(text), [prefix]) => {
            let prefix = prefix.as_str().unwrap_or_default();
            Ok(text.strip_prefix(prefix).unwrap_or(text).into())
        }
        ("removesuffix", Some(text), [suffix]) => {
            let suffix = suffix.as_str().unwrap_or_default();
            Ok(text.strip_suffix(suffix).unwrap_or(text).into())
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// `json.dumps(value, ensure_ascii=False)`, with `indent` if given.
fn to_json(value: &Jinja, options: Kwargs) -> Result<Jinja, minijinja::Error> {
    let failed = |e: &dyn std::fmt::Display| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string());
    let indent: Option<usize> = options.get("indent")?;
    for name in ["ensure_ascii", "separators", "sort_keys"] {
        if options.get::<Option<Jinja>>(name)?.is_some_and(|value| value.is_true()) {
            return Err(failed(&format!("tojson with `{name}` is not supported")));
        }
    }
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    let done = match indent {
        Some(n) => {
            let spaces = " ".repeat(n.min(16));
            let format = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, format))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Spaced)),
    };
    done.map_err(|e| failed(&e))?;
    Ok(String::from_utf8(bytes).map_err(|e| failed(&e))?.into())
}

/// Separators with a space, as in Python.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

/// Replaces the tags `generation` and `endgeneration`, which mark the assistant's text for training and change no
/// output, by a condition that holds.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(from) = rest.find("{%") {
        let Some(length) = rest[from..].find("%}") else { break };
        let (before, tag) = (&rest[..from], &rest[from..from + length + 2]);
        let inner = &tag[2..tag.len() - 2];
        let word = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        out.push_str(before);
        match word {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = &rest[from + length + 2..];
    }
    out.push_str(rest);
    out
}
