//! From the tokens of an answer to its pieces of text: decoding, stop strings, and what the model thinks before it answers.

use std::ops::ControlFlow;

use crate::stop::Stops;
use crate::thinking::Thinking;
use crate::{Engine, Error, Piece, Writer};

/// Turns the tokens of an answer into its pieces.
pub(crate) struct Output {
    engine: Engine,
    /// The tokens that end the answer.
    ends: Vec<u32>,
    tags: Option<[&'static str; 2]>,
    shown: Vec<u32>,
    writer: Writer,
    stops: Stops,
    pub(crate) thinking: Thinking,
    pub(crate) written: usize,
}

/// How an answer is looked at.
pub(crate) struct Watched {
    /// The tokens that end it.
    pub(crate) ends: Vec<u32>,
    /// The strings that it ends before.
    pub(crate) stops: Vec<String>,
    /// Whether the string that it ended before is part of it.
    pub(crate) keeps_stop: bool,
    /// The tags around the model's thoughts, if thoughts are reported separately from the answer.
    pub(crate) tags: Option<[&'static str; 2]>,
    /// Whether the prompt ends behind the opening tag.
    pub(crate) inside: bool,
    /// Special tokens that are text.
    pub(crate) shown: Vec<u32>,
}

impl Output {
    /// An answer whose tokens follow those of `writer`.
    pub(crate) fn new(engine: &Engine, writer: Writer, watched: Watched) -> Self {
        let Watched { ends, stops, keeps_stop, tags, inside, shown } = watched;
        let (stops, thinking) = (Stops::new(stops).keeping(keeps_stop), Thinking::new(tags, inside));
        Self { engine: engine.clone(), ends, tags, shown, writer, stops, thinking, written: 0 }
    }

    /// Appends a token and tells the text that is certain; breaks off where the answer ends.
    pub(crate) fn push(&mut self, id: u32, tell: &mut impl FnMut(Piece<'_>)) -> Result<ControlFlow<()>, Error> {
        self.push_with(id, true, tell)
    }

    /// As [`Output::push`]; unless `stopped`, no string ends the answer.
    pub(crate) fn push_with(
        &mut self,
        id: u32,
        stopped: bool,
        tell: &mut impl FnMut(Piece<'_>),
    ) -> Result<ControlFlow<()>, Error> {
        self.written += 1;
        if self.ends.contains(&id) {
            return Ok(ControlFlow::Break(()));
        }
        // Where a tag is a special token, it leaves no text.
        let tokenizer = self.engine.tokenizer()?;
        let mut tags = self.tags.iter().flatten().filter(|tag| tokenizer.id(tag) == Some(id));
        let mut text = self.writer.text(id)?;
        if let Some(tag) = tags.next().filter(|_| !tokenizer.shows(id)) {
            text.push_str(tag);
        }
        if self.shown.contains(&id) {
            text.push_str(&tokenizer.token(id).unwrap_or_default());
        }
        let text = if stopped { self.stops.push(&text) } else { self.stops.rest() + &text };
        self.thinking.push(&text, tell);
        Ok(if self.stops.found() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// Tells the text that was held back, if no more follows.
    pub(crate) fn finish(&mut self, tell: &mut impl FnMut(Piece<'_>)) -> Result<(), Error> {
        let rest = if self.stops.found() { String::new() } else { self.writer.rest()? };
        let text = self.stops.push(&rest) + &self.stops.rest();
        self.thinking.push(&text, tell);
        self.thinking.finish(tell);
        Ok(())
    }
}
