//! Functions that a model may call: `tools`, `tool_choice` and `parallel_tool_calls`.

use longreach_engine::scheduler::Structure;
use longreach_engine::{CallStyle, Calls, Engine, Form, Function, Message};
use serde_json::{Map, Value, json};

use crate::fields::{Fields, wrong};
use crate::refusal::Refusal;
use crate::structure::Grammars;

/// The most functions.
const MOST: usize = 128;

/// Which functions must be called.
enum Choice {
    None,
    Auto,
    Required,
    /// This one.
    Named(String),
}

/// The functions of a request.
pub(crate) struct Tools {
    /// As the request has them.
    list: Vec<Value>,
    functions: Vec<Function>,
    choice: Choice,
    many: bool,
}

impl Tools {
    /// Reads the fields; `None` if no function may be called.
    pub(crate) fn read(f: &Fields<'_>) -> Result<Option<Self>, Refusal> {
        let many = f.flag("parallel_tool_calls")?.unwrap_or(true);
        let list = f.list("tools")?.cloned().unwrap_or_default();
        if list.len() > MOST {
            return Err(Refusal::value("tools", format!("`tools`: at most {MOST}, found {}", list.len())));
        }
        let functions = list.iter().enumerate().map(|(i, tool)| function(tool, &format!("tools[{i}]")));
        let functions: Vec<Function> = functions.collect::<Result<_, _>>()?;
        for (i, function) in functions.iter().enumerate() {
            if functions[..i].iter().any(|other| other.name == function.name) {
                let path = format!("tools[{i}].function.name");
                return Err(Refusal::value(&path, format!("`{path}`: two functions have the name {}", function.name)));
            }
        }
        let choice = choice(f, &functions)?;
        let may = !matches!(choice, Choice::None) && !functions.is_empty();
        Ok(may.then_some(Self { list, functions, choice, many }))
    }

    /// Whether the answer consists of calls.
    pub(crate) fn is_forced(&self) -> bool {
        !matches!(self.choice, Choice::Auto)
    }

    /// The structure of an answer in which they may be called.
    pub(crate) fn structure(&self, engine: &Engine, model: &str, grammars: &Grammars) -> Result<Structure, Refusal> {
        let style = CallStyle::of(engine.chat_template().ok());
        let named = match &self.choice {
            Choice::Named(name) => Some(name),
            _ => None,
        };
        let functions: Vec<Function> =
            self.functions.iter().filter(|function| named.is_none_or(|name| function.name == *name)).cloned().collect();
        let (many, tagged) = (self.many && named.is_none(), self.is_forced());
        let calls = Calls { style, functions, many, tagged };
        let grammar = grammars.compile(engine, model, Form::Calls(calls), "tools")?;
        // Of the other styles, a call is the end of the answer.
        let many = many && style == CallStyle::Tagged;
        Ok(if tagged { Structure::Calls(grammar) } else { Structure::Text { style, call: grammar, many } })
    }

    /// Shows them to the model: by the variable `tools` of its chat template, or as a message to a model whose template knows none.
    pub(crate) fn show(&self, engine: &Engine, messages: &mut Vec<Message>, more: &mut Map<String, Value>) {
        if knows(engine, "tools") {
            more.entry("tools").or_insert_with(|| self.list.clone().into());
            return;
        }
        let functions: Vec<String> = self.list.iter().map(|tool| tool["function"].to_string()).collect();
        let text = format!(
            "Functions that can be called, one on each line:\n{}\n\nA call is written as\n<tool_call>\n{{\"name\": \"...\", \
             \"arguments\": {{...}}}}\n</tool_call>",
            functions.join("\n")
        );
        match messages.first_mut().filter(|first| first.role == "system") {
            Some(first) => first.content = format!("{}\n\n{text}", first.content),
            None => messages.insert(0, Message::new("system", text)),
        }
    }
}

fn knows(engine: &Engine, word: &str) -> bool {
    engine.chat_template().is_ok_and(|template| template.source().contains(word))
}

/// Writes calls and their results as text, where the chat template knows none.
pub(crate) fn as_text(engine: &Engine, messages: &mut [Message]) {
    if !knows(engine, "tool_calls") {
        for message in messages.iter_mut() {
            for call in std::mem::take(&mut message.tool_calls) {
                let (name, arguments) = (&call["function"]["name"], &call["function"]["arguments"]);
                let call = format!("<tool_call>\n{{\"name\": {name}, \"arguments\": {arguments}}}\n</tool_call>");
                let newline = if message.content.is_empty() { "" } else { "\n" };
                message.content = format!("{}{newline}{call}", message.content);
            }
        }
    }
    if !["'tool'", "\"tool\"", "tool_response", "ipython"].iter().any(|word| knows(engine, word)) {
        for message in messages.iter_mut().filter(|message| message.role == "tool") {
            let content = format!("<tool_response>\n{}\n</tool_response>", message.content);
            *message = Message::new("user", content);
        }
    }
}

fn function(tool: &Value, path: &str) -> Result<Function, Refusal> {
    let f = Fields::of(tool, path)?;
    f.unknown(&["type", "function"], false)?;
    let kind = f.want("type")?;
    if kind != "function" {
        let message = format!("`{}`: want function, found {}", f.path("type"), shown(kind));
        return Err(Refusal::unsupported(f.path("type"), message));
    }
    f.want("function")?;
    let Some(function) = f.object("function")? else { return Err(Refusal::internal()) };
    function.unknown(&["name", "description", "parameters", "strict"], false)?;
    function.text("description")?;
    function.flag("strict")?;
    let name = function.want("name")?;
    let name = name.as_str().ok_or_else(|| wrong(&function.path("name"), "a string", name))?;
    let named = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(named) {
        let path = function.path("name");
        let message = format!("`{path}`: want 1 to 64 letters, digits, `_`, `-` and `.`");
        return Err(Refusal::value(&path, message));
    }
    function.object("parameters")?;
    Ok(Function { name: name.to_owned(), parameters: function.get("parameters").cloned() })
}

fn shown(value: &Value) -> String {
    value.to_string().chars().take(60).collect()
}

fn choice(f: &Fields<'_>, functions: &[Function]) -> Result<Choice, Refusal> {
    let missing = |path: &str| Refusal::value(path, format!("`{path}`: there are no `tools` to call"));
    let choice = match f.get("tool_choice") {
        None => return Ok(Choice::Auto),
        Some(choice) => choice,
    };
    match choice {
        Value::String(text) => match text.as_str() {
            "none" => Ok(Choice::None),
            "auto" => Ok(Choice::Auto),
            "required" if functions.is_empty() => Err(missing("tool_choice")),
            "required" => Ok(Choice::Required),
            other => {
                let other: String = other.chars().take(40).collect();
                let message = format!("`tool_choice`: want none, auto, required or a function, found {other}");
                Err(Refusal::value("tool_choice", message))
            }
        },
        Value::Object(_) => {
            let named = Fields::of(choice, "tool_choice")?;
            named.unknown(&["type", "function"], false)?;
            let kind = named.want("type")?;
            if kind != "function" {
                let message = format!("`tool_choice.type`: want function, found {}", shown(kind));
                return Err(Refusal::unsupported("tool_choice.type", message));
            }
            named.want("function")?;
            let Some(function) = named.object("function")? else { return Err(Refusal::internal()) };
            function.unknown(&["name"], false)?;
            let name = function.want("name")?;
            let path = function.path("name");
            let name = name.as_str().ok_or_else(|| wrong(&path, "a string", name))?;
            if !functions.iter().any(|function| function.name == name) {
                let name: String = name.chars().take(64).collect();
                return Err(Refusal::value(&path, format!("`{path}`: there is no function {name} in `tools`")));
            }
            Ok(Choice::Named(name.to_owned()))
        }
        other => Err(wrong("tool_choice", "a string or an object", other)),
    }
}

/// The calls of an assistant's message, with their arguments as objects.
pub(crate) fn calls(f: &Fields<'_>) -> Result<Vec<Value>, Refusal> {
    let list = f.list("tool_calls")?.map_or(&[][..], Vec::as_slice);
    let one = |(i, call): (usize, &Value)| {
        let call = Fields::of(call, &format!("{}[{i}]", f.path("tool_calls")))?;
        call.unknown(&["id", "type", "function", "index"], false)?;
        call.want("function")?;
        let Some(function) = call.object("function")? else { return Err(Refusal::internal()) };
        function.unknown(&["name", "arguments"], false)?;
        let (name, path) = (function.want("name")?, function.path("arguments"));
        let name = name.as_str().ok_or_else(|| wrong(&function.path("name"), "a string", name))?;
        let bad = || Refusal::value(&path, format!("`{path}`: want an object of JSON as text"));
        let arguments = match function.get("arguments") {
            None => json!({}),
            Some(Value::String(text)) if text.trim().is_empty() => json!({}),
            Some(Value::String(text)) => serde_json::from_str(text).map_err(|_| bad())?,
            Some(value) => value.clone(),
        };
        if !arguments.is_object() {
            return Err(bad());
        }
        let mut told = json!({"type": "function", "function": {"name": name, "arguments": arguments}});
        if let Some(id) = call.text("id")? {
            told["id"] = id.into();
        }
        Ok(told)
    };
    list.iter().enumerate().map(one).collect()
}
