//! What an answer may be: a text of a grammar as a whole, or text in which functions are called.

use std::sync::mpsc::{RecvTimeoutError, TryRecvError};
use std::time::Instant;

use super::masks::{Made, Making, Masks};
use super::request::{Failure, Structure};
use crate::grammar::{CallStyle, Mask};
use crate::stream::opened;
use crate::{Error, Grammar};

/// Where an answer is.
enum Place {
    /// Any token may follow.
    Free,
    /// The tokens that may follow are being found.
    Making(Making),
    /// They are known.
    Made(Box<Made>),
}

/// What was written, divided into text and calls.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) text: String,
    pub(super) call: String,
    /// Whether the answer is complete.
    pub(super) complete: bool,
}

/// Keeps an answer to its structure.
pub(super) struct Constraint {
    structure: Structure,
    masks: Masks,
    place: Place,
    /// Whether the answer is behind the model's thoughts, which no grammar constrains.
    begun: bool,
    /// Text that may be the beginning of a call.
    held: String,
    /// Whether there was text before, and whether the last thing was a call.
    text: bool,
    call: bool,
}

fn failed(message: &str) -> Failure {
    Failure::Engine(Error::Grammar { at: String::new(), message: message.to_owned() })
}

impl Constraint {
    /// The constraint of an answer. If it begins within the model's thoughts, `thinking`, its grammar begins behind them.
    pub(super) fn new(structure: &Structure, masks: &Masks, thinking: bool) -> Self {
        let (structure, masks, held) = (structure.clone(), masks.clone(), String::new());
        let mut constraint =
            Self { structure, masks, place: Place::Free, begun: false, held, text: false, call: false };
        if !thinking {
            constraint.begin();
        }
        constraint
    }

    /// The grammar that the whole answer is of.
    fn whole(&self) -> Option<&Grammar> {
        match &self.structure {
            Structure::Grammar(grammar) | Structure::Calls(grammar) => Some(grammar),
            Structure::None | Structure::Text { .. } => None,
        }
    }

    fn begin(&mut self) {
        self.begun = true;
        if let Some(grammar) = self.whole().cloned() {
            self.place = Place::Making(self.masks.make(move || grammar.begin()));
        }
    }

    /// Whether it is known by `until` which tokens may follow. A fault is known as well.
    pub(super) fn is_ready(&mut self, until: Instant) -> bool {
        let Place::Making(making) = &self.place else { return true };
        let made = match until.saturating_duration_since(Instant::now()) {
            left if left.is_zero() => making.try_recv().map_err(|e| e == TryRecvError::Empty),
            left => making.recv_timeout(left).map_err(|e| e == RecvTimeoutError::Timeout),
        };
        match made {
            Ok(Ok(made)) => self.place = Place::Made(Box::new(made)),
            Err(true) => return false,
            // `Constraint::mask` says so.
            Ok(Err(_)) | Err(false) => {}
        }
        true
    }

    /// The tokens that may follow, if they are limited. An error if they could not be found.
    pub(super) fn mask(&self) -> Result<Option<&Mask>, Failure> {
        match &self.place {
            Place::Free => Ok(None),
            Place::Made(made) => Ok(Some(&made.mask)),
            Place::Making(_) => Err(failed("the grammar is too complex for this answer")),
        }
    }

    /// Whether text is a call that has begun, in which no string ends the answer.
    pub(super) fn is_within_call(&self) -> bool {
        matches!(self.structure, Structure::Text { .. }) && !matches!(self.place, Place::Free)
    }

    /// Takes a token that was sampled, with the text that is certain now. `thinking` says whether the answer is still within the model's thoughts.
    pub(super) fn wrote(&mut self, id: u32, text: String, thinking: bool) -> Result<Parts, Failure> {
        if let Place::Made(_) = self.place {
            let Place::Made(made) = std::mem::replace(&mut self.place, Place::Free) else {
                return Ok(Parts::default());
            };
            let mut masked = made.masked;
            if !masked.take(id) {
                return Err(failed("a token was sampled that the grammar does not allow"));
            }
            let complete = masked.is_complete();
            if !complete {
                self.place = Place::Making(self.masks.make(move || masked));
            }
            return Ok(self.within(text, complete));
        }
        if self.whole().is_none() {
            self.held.push_str(&text);
            return Ok(self.free());
        }
        if thinking || self.begun {
            return Ok(Parts { text, ..Parts::default() });
        }
        // The thoughts have ended, perhaps in the middle of a token.
        self.begin();
        if text.is_empty() {
            return Ok(Parts::default());
        }
        let Some(mut masked) = self.whole().map(Grammar::begin) else { return Ok(Parts::default()) };
        if !masked.take_text(&text) {
            return Err(failed("the model's last thought ran into its answer"));
        }
        let complete = masked.is_complete();
        self.place = if complete { Place::Free } else { Place::Making(self.masks.make(move || masked)) };
        Ok(self.within(text, complete))
    }

    /// Text that a grammar allowed; `complete` if the grammar ends with it.
    fn within(&mut self, text: String, complete: bool) -> Parts {
        match &self.structure {
            Structure::Text { many, .. } => Parts { call: text, complete: complete && !many, text: String::new() },
            Structure::Calls(_) => Parts { call: text, complete, text: String::new() },
            Structure::Grammar(_) | Structure::None => Parts { text, complete, call: String::new() },
        }
    }

    /// Looks for the beginning of a call in the text that is held.
    fn free(&mut self) -> Parts {
        let Structure::Text { style, call, .. } = &self.structure else {
            return Parts { text: std::mem::take(&mut self.held), ..Parts::default() };
        };
        let (style, grammar, open) = (*style, call.clone(), style.open());
        let mut parts = Parts::default();
        if style == CallStyle::Bare {
            let begun = self.held.trim_start();
            if !self.text && !self.call && begun.starts_with(open) {
                let begun = begun.to_owned();
                self.held.clear();
                if !self.starts(&grammar, &begun, &mut parts) {
                    self.put(&begun, &mut parts.text);
                }
            } else if self.text || self.call || !open.starts_with(begun) {
                let held = std::mem::take(&mut self.held);
                self.put(&held, &mut parts.text);
            }
            return parts;
        }
        while let Some(at) = self.held.find(open) {
            let behind = self.held.split_off(at + open.len());
            let before = std::mem::take(&mut self.held);
            self.put(&before[..at], &mut parts.text);
            if self.starts(&grammar, &behind, &mut parts) {
                return parts;
            }
            // What follows in the same token is no call.
            self.put(open, &mut parts.text);
            self.held = behind;
        }
        let rest = self.held.split_off(self.held.len() - opened(&self.held, open));
        let text = std::mem::replace(&mut self.held, rest);
        self.put(&text, &mut parts.text);
        parts
    }

    /// Begins a call with this text, if the grammar allows it.
    fn starts(&mut self, grammar: &Grammar, text: &str, parts: &mut Parts) -> bool {
        let mut masked = grammar.begin();
        if !text.is_empty() && !masked.take_text(text) {
            return false;
        }
        let complete = masked.is_complete();
        if !complete {
            self.place = Place::Making(self.masks.make(move || masked));
        }
        let within = self.within(text.to_owned(), complete);
        parts.call.push_str(&within.call);
        parts.complete = within.complete;
        self.call = true;
        true
    }

    /// Appends text to the answer that the client gets, without the white space between calls.
    fn put(&mut self, text: &str, to: &mut String) {
        let text = if self.call { text.trim_start() } else { text };
        if !text.is_empty() {
            (self.text, self.call) = (true, false);
            to.push_str(text);
        }
    }

    /// The text that was held back, if no more follows.
    pub(super) fn rest(&mut self, more: String) -> Parts {
        if self.whole().is_some() || self.is_within_call() {
            return self.within(more, false);
        }
        let mut parts = Parts::default();
        let held = std::mem::take(&mut self.held) + &more;
        self.put(&held, &mut parts.text);
        parts
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::{Calls, Engine, Form, Function};

    /// Writes a text as the model's tokens, each of which must be allowed; returns the text and the calls, and whether it ended itself.
    fn written(engine: &Engine, constraint: &mut Constraint, text: &str) -> (String, String, bool) {
        let tokenizer = engine.tokenizer().expect("a tokenizer");
        let (mut told, mut calls) = (String::new(), String::new());
        for id in tokenizer.encode(text).expect("tokens") {
            assert!(constraint.is_ready(Instant::now() + Duration::from_secs(60)));
            let piece = String::from_utf8(tokenizer.bytes(id)).expect("text");
            if let Some(mask) = constraint.mask().expect("a mask") {
                assert!(mask.allows(id), "{piece:?} in {text:?}, behind {told:?} and {calls:?}");
            }
            let parts = constraint.wrote(id, piece, false).expect("a text");
            told += &parts.text;
            calls += &parts.call;
            if parts.complete {
                return (told, calls, true);
            }
        }
        let rest = constraint.rest(String::new());
        (told + &rest.text, calls + &rest.call, false)
    }

    #[test]
    fn a_call_within_text_is_told_apart_and_constrained() {
        let engine = Engine::embedded(None).expect("the built-in model");
        let masks = Masks::start();
        let parameters = json!({"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": false});
        let functions = vec![Function { name: "f".into(), parameters: Some(parameters) }];
        let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 5}}\n</tool_call>";
        for (text, many, want, calls, complete) in [
            (format!("Let me see.{call}"), true, "Let me see.", 1, false),
            (format!("{call}\n{call}"), true, "", 2, false),
            (format!("{call}\n{call}"), false, "", 1, true),
            ("a < b, <tool> and <tool_call".into(), true, "a < b, <tool> and <tool_call", 0, false),
            (format!("{call}\n So it is."), true, "So it is.", 1, false),
        ] {
            let form = Calls { style: CallStyle::Tagged, functions: functions.clone(), many, tagged: false };
            let grammar = engine.grammar(&Form::Calls(form)).expect("a grammar");
            let structure = Structure::Text { style: CallStyle::Tagged, call: grammar, many };
            let mut constraint = Constraint::new(&structure, &masks, false);
            let (told, call, ended) = written(&engine, &mut constraint, &text);
            assert_eq!((told.as_str(), call.matches("\"x\": 5").count(), ended), (want, calls, complete), "{text:?}");
        }
    }

    #[test]
    fn a_bare_call_is_the_whole_answer() {
        let engine = Engine::embedded(None).expect("the built-in model");
        let masks = Masks::start();
        let functions = vec![Function { name: "f".into(), parameters: None }];
        let call = "{\"name\": \"f\", \"parameters\": {}}";
        for (text, want, calls, complete) in [
            (call.to_owned(), "", call, true),
            ("{\"nome\": \"Ada\"}".into(), "{\"nome\": \"Ada\"}", "", false),
            (format!("It is {call}"), "It is {\"name\": \"f\", \"parameters\": {}}", "", false),
            ("{\"na".into(), "{\"na", "", false),
        ] {
            let form = Calls { style: CallStyle::Bare, functions: functions.clone(), many: true, tagged: false };
            let grammar = engine.grammar(&Form::Calls(form)).expect("a grammar");
            let structure = Structure::Text { style: CallStyle::Bare, call: grammar, many: false };
            let mut constraint = Constraint::new(&structure, &masks, false);
            let told = written(&engine, &mut constraint, &text);
            assert_eq!(told, (want.to_owned(), calls.to_owned(), complete), "{text:?}");
        }
    }

    #[test]
    fn a_grammar_begins_behind_the_thoughts() {
        let engine = Engine::embedded(None).expect("the built-in model");
        let masks = Masks::start();
        let grammar = engine.grammar(&Form::Choice(vec!["yes".into(), "no".into()])).expect("a grammar");
        let mut constraint = Constraint::new(&Structure::Grammar(grammar), &masks, true);
        assert!(constraint.mask().expect("a mask").is_none());
        constraint.wrote(5, String::new(), true).expect("a thought");
        constraint.wrote(6, String::new(), false).expect("the end of it");
        assert_eq!(written(&engine, &mut constraint, "yes"), ("yes".into(), String::new(), true));
    }
}
