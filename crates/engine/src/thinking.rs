//! What a model thinks before it answers, which it writes between two tags.

use crate::stream::opened;
use crate::{ChatTemplate, Tokenizer};

/// A piece of an answer as it is generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// What the model thinks before it answers; templates leave it out of later turns.
    Thinking(&'a str),
    /// The answer.
    Text(&'a str),
}

/// The tags between which published models think.
const TAGS: [[&str; 2]; 5] = [
    ["<think>", "</think>"],
    ["[THINK]", "[/THINK]"],
    ["<seed:think>", "</seed:think>"],
    ["<|START_THINKING|>", "<|END_THINKING|>"],
    ["<|channel>thought", "<channel|>"],
];

/// The tags of a model: those that its template writes, or that are among its tokens.
pub(crate) fn tags(template: &ChatTemplate, tokenizer: &Tokenizer) -> Option<[&'static str; 2]> {
    let written = |tags: &&[&str; 2]| template.mentions(tags[1]);
    let known = |tags: &&[&str; 2]| tags.iter().all(|tag| tokenizer.id(tag).is_some());
    TAGS.iter().find(written).or_else(|| TAGS.iter().find(known)).copied()
}

/// Where an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before its first word, which may be the opening tag.
    Start,
    /// Between the tags.
    Inside,
    /// Behind the closing tag, before a word.
    Behind,
    /// In the answer.
    Text,
}

/// Separates an answer that is generated in pieces.
#[derive(Clone, Debug)]
pub(crate) struct Thinking {
    tags: [&'static str; 2],
    place: Place,
    held: String,
    /// What was thought.
    pub(crate) thought: String,
    /// The answer.
    pub(crate) text: String,
}

impl Thinking {
    /// An answer of a model with these tags, which begins behind the opening one if `inside`.
    pub(crate) fn new(tags: Option<[&'static str; 2]>, inside: bool) -> Self {
        let place = match tags {
            None => Place::Text,
            Some(_) if inside => Place::Inside,
            Some(_) => Place::Start,
        };
        let (held, thought, text) = (String::new(), String::new(), String::new());
        Self { tags: tags.unwrap_or_default(), place, held, thought, text }
    }

    /// Whether the text so far ends within a thought.
    pub(crate) fn is_inside(&self) -> bool {
        self.place == Place::Inside
    }

    /// Appends a piece and tells what is certain.
    pub(crate) fn push(&mut self, piece: &str, tell: &mut impl FnMut(Piece<'_>)) {
        self.held.push_str(piece);
        let [open, close] = self.tags;
        if self.place == Place::Start {
            let begun = self.held.trim_start();
            if let Some(rest) = begun.strip_prefix(open) {
                (self.place, self.held) = (Place::Inside, rest.to_owned());
            } else if !open.starts_with(begun) {
                self.place = Place::Text;
            } else {
                return;
            }
        }
        if self.place == Place::Inside {
            if let Some((thought, rest)) = self.held.split_once(close) {
                let (thought, rest) = (thought.to_owned(), rest.to_owned());
                self.think(&thought, tell);
                (self.place, self.held) = (Place::Behind, rest);
            } else {
                let open = self.held.split_off(self.held.len() - opened(&self.held, close));
                let thought = std::mem::replace(&mut self.held, open);
                self.think(&thought, tell);
                return;
            }
        }
        let text = std::mem::take(&mut self.held);
        let text = if self.place == Place::Behind { text.trim_start() } else { &text };
        if !text.is_empty() {
            self.place = Place::Text;
            self.text.push_str(text);
            tell(Piece::Text(text));
        }
    }

    /// Tells what was held back, if no more follows.
    pub(crate) fn finish(&mut self, tell: &mut impl FnMut(Piece<'_>)) {
        let held = std::mem::take(&mut self.held);
        match self.place {
            Place::Inside => self.think(&held, tell),
            _ if !held.is_empty() => {
                self.text.push_str(&held);
                tell(Piece::Text(&held));
            }
            _ => {}
        }
    }

    fn think(&mut self, thought: &str, tell: &mut impl FnMut(Piece<'_>)) {
        if !thought.is_empty() {
            self.thought.push_str(thought);
            tell(Piece::Thinking(thought));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn separated(text: &str, inside: bool, size: usize) -> (String, String) {
        let mut thinking = Thinking::new(Some(TAGS[0]), inside);
        let (mut thought, mut told) = (String::new(), String::new());
        let mut tell = |piece: Piece<'_>| match piece {
            Piece::Thinking(piece) => thought.push_str(piece),
            Piece::Text(piece) => told.push_str(piece),
        };
        for piece in text.chars().collect::<Vec<_>>().chunks(size) {
            thinking.push(&piece.iter().collect::<String>(), &mut tell);
        }
        thinking.finish(&mut tell);
        assert_eq!((&thinking.thought, &thinking.text), (&thought, &told));
        (thought, told)
    }

    #[test]
    fn thoughts_are_separated_however_the_text_is_cut() {
        for (text, inside, thought, answer) in [
            ("<think>\nHm < 3.</think>\n\nYes.\n", false, "\nHm < 3.", "Yes.\n"),
            ("\n<think></think>Yes", false, "", "Yes"),
            ("Hm.</think> Yes </think>", true, "Hm.", "Yes </think>"),
            ("<think>Hm", false, "Hm", ""),
            ("Hm </thi", true, "Hm </thi", ""),
            ("<thin", false, "", "<thin"),
            (" a <think>b</think>", false, "", " a <think>b</think>"),
            ("", false, "", ""),
        ] {
            for size in 1..=text.len().max(1) {
                assert_eq!(
                    separated(text, inside, size),
                    (thought.to_owned(), answer.to_owned()),
                    "{text:?} by {size}"
                );
            }
        }
    }

    #[test]
    fn a_model_without_tags_thinks_nothing() {
        let mut thinking = Thinking::new(None, false);
        thinking.push("<think>a</think>", &mut |piece| assert_eq!(piece, Piece::Text("<think>a</think>")));
        assert_eq!(thinking.text, "<think>a</think>");
    }
}
