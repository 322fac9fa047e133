//! The calls of an answer, as its text comes. A grammar has seen to their form: `{"name": "…", "arguments": {…}}` with tags, brackets and commas between them.

use longreach_engine::CallStyle;
use serde_json::{Value, json};

use crate::ids::fresh;

/// A call.
struct Call {
    id: String,
    name: String,
    arguments: String,
}

/// Where the text is.
enum Place {
    /// Between calls.
    Outside,
    /// Before the arguments.
    Head(String),
    /// In the arguments, so many braces deep.
    Arguments { depth: usize, string: bool, escaped: bool },
    /// Behind them.
    Tail,
}

/// Finds the calls in the text of an answer.
pub(crate) struct Scanner {
    style: CallStyle,
    place: Place,
    calls: Vec<Call>,
}

impl Scanner {
    pub(crate) fn new(style: CallStyle) -> Self {
        Self { style, place: Place::Outside, calls: Vec::new() }
    }

    /// Whether a call has begun.
    pub(crate) fn any(&self) -> bool {
        !self.calls.is_empty()
    }

    /// Appends text; returns what a stream tells about it, as `tool_calls` of its pieces.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Value> {
        let (mut told, mut piece) = (Vec::new(), String::new());
        for c in text.chars() {
            match &mut self.place {
                Place::Outside if c == '{' => self.place = Place::Head("{".into()),
                Place::Outside => {}
                Place::Head(head) => {
                    head.push(c);
                    if head.ends_with(&format!("\"{}\": ", self.style.arguments())) {
                        let name = head.split('"').nth(3).unwrap_or_default().to_owned();
                        told.push(self.begin(name));
                        self.place = Place::Arguments { depth: 0, string: false, escaped: false };
                    }
                }
                Place::Arguments { depth, string, escaped } => {
                    piece.push(c);
                    match c {
                        _ if *escaped => *escaped = false,
                        '\\' => *escaped = *string,
                        '"' => *string = !*string,
                        '{' if !*string => *depth += 1,
                        '}' if !*string => *depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    if *depth == 0 {
                        told.push(self.goes_on(&std::mem::take(&mut piece)));
                        self.place = Place::Tail;
                    }
                }
                Place::Tail if c == '}' => self.place = Place::Outside,
                Place::Tail => {}
            }
        }
        if !piece.is_empty() {
            told.push(self.goes_on(&piece));
        }
        told
    }

    fn begin(&mut self, name: String) -> Value {
        // Templates of Mistral's models want ids of nine letters and digits.
        let id = match self.style {
            CallStyle::List => fresh("").chars().filter(char::is_ascii_alphanumeric).take(9).collect(),
            _ => fresh("call_"),
        };
        let index = self.calls.len();
        let told = json!([{"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}]);
        self.calls.push(Call { id, name, arguments: String::new() });
        told
    }

    fn goes_on(&mut self, piece: &str) -> Value {
        let index = self.calls.len().saturating_sub(1);
        if let Some(call) = self.calls.last_mut() {
            call.arguments.push_str(piece);
        }
        json!([{"index": index, "function": {"arguments": piece}}])
    }

    /// All calls, as a message has them.
    pub(crate) fn told(&self) -> Value {
        let one = |call: &Call| json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}});
        self.calls.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_found_however_the_text_is_cut() {
        let text = "<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": \"}\\\"{\", \"y\": {\"z\": [{}]}}}\n</tool_call>\
            <tool_call>{\"name\": \"b.c\", \"arguments\": {}}</tool_call>";
        let want = [("a", r#"{"x": "}\"{", "y": {"z": [{}]}}"#), ("b.c", "{}")];
        let letters: Vec<char> = text.chars().collect();
        for size in 1..=letters.len() {
            let mut scanner = Scanner::new(CallStyle::Tagged);
            let told: Vec<Value> =
                letters.chunks(size).flat_map(|piece| scanner.push(&piece.iter().collect::<String>())).collect();
            let calls = scanner.told();
            for (i, (name, arguments)) in want.iter().enumerate() {
                assert_eq!(calls[i]["function"], json!({"name": name, "arguments": arguments}), "by {size}");
                let own = told.iter().filter(|delta| delta[0]["index"] == i);
                let pieces: String =
                    own.map(|delta| delta[0]["function"]["arguments"].as_str().unwrap_or("")).collect();
                assert_eq!(pieces, *arguments, "by {size}");
            }
            assert_eq!(calls.as_array().map(Vec::len), Some(2));
            assert_eq!(told.iter().filter(|delta| delta[0]["id"].is_string()).count(), 2);
        }
    }
}
