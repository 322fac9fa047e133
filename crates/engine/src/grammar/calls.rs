//! Calls of functions: how families of models write them, and the grammar of a call.

use serde_json::{Value, json};

use super::{LONGEST_GRAMMAR, schema, spaced, wrong};
use crate::{ChatTemplate, Error};

/// Special tokens of calls, which grammars and answers treat as the text of their name.
pub(super) const TAGS: [&str; 3] = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]"];

/// How a model writes the call of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallStyle {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`, as Hermes and Qwen do.
    Tagged,
    /// `[TOOL_CALLS][{"name": …, "arguments": …}, …]`, as Mistral's models do.
    List,
    /// `{"name": …, "parameters": …}` and nothing else, as Llama 3 does.
    Bare,
}

impl CallStyle {
    /// The style that a chat template shows; that of Hermes where it shows none.
    pub fn of(template: Option<&ChatTemplate>) -> Self {
        let mentions = |text: &str| template.is_some_and(|template| template.mentions(text));
        if mentions("[TOOL_CALLS]") {
            Self::List
        } else if mentions("<tool_call>") || !(mentions("<|python_tag|>") || mentions("Environment: ipython")) {
            Self::Tagged
        } else {
            Self::Bare
        }
    }

    /// The text with which a call begins.
    pub(crate) fn open(self) -> &'static str {
        match self {
            Self::Tagged => TAGS[0],
            Self::List => TAGS[2],
            Self::Bare => r#"{"name": ""#,
        }
    }

    /// The field of the arguments.
    pub fn arguments(self) -> &'static str {
        if self == Self::Bare { "parameters" } else { "arguments" }
    }
}

/// A function that may be called.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Its name: letters, digits, `_`, `-` and `.`.
    pub name: String,
    /// The schema of its arguments, an object. Without one, it has none.
    pub parameters: Option<Value>,
}

/// Calls of functions.
#[derive(Clone, Debug, PartialEq)]
pub struct Calls {
    /// How they are written.
    pub style: CallStyle,
    /// The functions; at least one.
    pub functions: Vec<Function>,
    /// Whether there may be several.
    pub many: bool,
    /// Whether the text begins with [the tag of a call](CallStyle::Tagged), or behind it.
    pub tagged: bool,
}

/// The largest schemas of all functions in bytes.
const LARGEST: usize = 8 * LONGEST_GRAMMAR;

impl Calls {
    /// The grammar in Lark's notation.
    pub(super) fn lark(&self) -> Result<String, Error> {
        if self.functions.is_empty() {
            return Err(wrong("want at least one function"));
        }
        let (open, many) = (Value::from(self.style.open()).to_string(), self.many);
        let open = if self.tagged { format!("{open} ") } else { String::new() };
        let mut lark = match (self.style, many && self.tagged) {
            (CallStyle::Tagged, true) => "start: one (\"\\n\"? one)*\n".to_owned(),
            (CallStyle::Tagged | CallStyle::Bare, _) => "start: one\n".to_owned(),
            (CallStyle::List, _) if many => format!("start: {open}\" \"? \"[\" call (/, ?/ call)* \"]\"\n"),
            (CallStyle::List, _) => format!("start: {open}\" \"? \"[\" call \"]\"\n"),
        };
        match self.style {
            CallStyle::Tagged => lark += &format!("one: {open}\"\\n\"? call \"\\n\"? \"</tool_call>\"\n"),
            CallStyle::Bare => lark += "one: call\n",
            CallStyle::List => {}
        }
        let names: Vec<String> = (0..self.functions.len()).map(|i| format!("call_{i}")).collect();
        lark += &format!("call: {}\n", names.join(" | "));
        for (i, function) in self.functions.iter().enumerate() {
            let begin = format!(r#"{{"name": "{}", "{}": "#, function.name, self.style.arguments());
            lark += &format!("call_{i}: {} %json {} \"}}\"\n", Value::from(begin), self.arguments(i, function)?);
            if lark.len() > LARGEST {
                return Err(wrong(format!("the schemas of all functions have more than {LARGEST} bytes")));
            }
        }
        Ok(lark)
    }

    /// The schema of a function's arguments, which are written as models were trained to, with a space behind commas and colons or without.
    fn arguments(&self, i: usize, function: &Function) -> Result<Value, Error> {
        let named = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if function.name.is_empty() || function.name.len() > 64 || !function.name.chars().all(named) {
            let at = format!("[{i}].function.name");
            return Err(Error::Grammar { at, message: "want 1 to 64 letters, digits, `_`, `-` and `.`".into() });
        }
        let place = |at: &str, message| Error::Grammar { at: format!("[{i}].function.parameters{at}"), message };
        let Some(parameters) = &function.parameters else {
            return Ok(spaced(json!({"type": "object", "additionalProperties": false}), ", ?", ": ?"));
        };
        schema::check(parameters).map_err(|error| match error {
            Error::Grammar { at, message } => place(&at, message),
            other => other,
        })?;
        let Value::Object(mut map) = parameters.clone() else {
            return Err(place("", "want a schema of an object".into()));
        };
        // Arguments are an object, also where the schema leaves it open.
        match map.get("type") {
            None if map.contains_key("properties") || map.is_empty() => {
                map.insert("type".into(), "object".into());
            }
            Some(kind) if kind != "object" => return Err(place(".type", format!("want \"object\", found {kind}"))),
            _ => {}
        }
        Ok(spaced(map.into(), ", ?", ": ?"))
    }
}
