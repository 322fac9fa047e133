//! Prompts of one message: their tokens, and the answers to them.

use std::io::Write;

use longreach_engine::{Cancel, Ended, Engine, Error, Message, Pieces, Reply, Sampler, Session};
use serde_json::Map;

use crate::failure::Failure;

/// The tokens of a message, up to the beginning of the answer.
pub(crate) struct Prompt {
    /// Those up to the end of a text that the message begins with: they depend on nothing that comes after.
    pub(crate) head: Vec<u32>,
    /// The others.
    pub(crate) tail: Vec<u32>,
}

impl Prompt {
    /// The message `head` + `tail` of a user, as the chat template of the model writes it, or as it is if there is none. The two parts are tokenized separately,
    /// so that the tokens of `head` are the same whatever follows it.
    pub(crate) fn new(engine: &Engine, head: &str, tail: &str) -> Result<Self, Failure> {
        Self::begun(engine, head, tail, "")
    }

    /// As [`Prompt::new`], with the beginning of the answer.
    pub(crate) fn begun(engine: &Engine, head: &str, tail: &str, answer: &str) -> Result<Self, Failure> {
        let message = format!("{head}{tail}");
        let (text, start, prefix) = match engine.chat_template() {
            Ok(template) => {
                let text = template.render(&[Message::new("user", message)], true, &Map::new())?;
                // A template that changes the message leaves no part that is the same for all.
                let start = if head.is_empty() { None } else { text.find(head) };
                (text, start, Vec::new())
            }
            Err(Error::NoTemplate(_)) => (message, Some(0), engine.tokenizer()?.prefix()?),
            Err(e) => return Err(e.into()),
        };
        let (head, tail) = text.split_at(start.map_or(0, |start| start + head.len()));
        let tail = tokens(engine, &format!("{tail}{answer}"))?;
        Ok(Self { head: [prefix, tokens(engine, head)?].concat(), tail })
    }

    /// All of them.
    pub(crate) fn ids(&self) -> Vec<u32> {
        [&self.head[..], &self.tail].concat()
    }

    /// The number of its tokens.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }
}

/// The tokens of a text of any length, without special tokens around it.
pub(crate) fn tokens(engine: &Engine, text: &str) -> Result<Vec<u32>, Failure> {
    let mut ids = Vec::new();
    if text.is_empty() {
        return Ok(ids);
    }
    let mut pieces = Pieces::new(engine.tokenizer()?, text.as_bytes(), "the text").continues(true);
    while let Some(piece) = pieces.next_piece()? {
        ids.extend(piece);
    }
    Ok(ids)
}

/// Streams an answer to standard output, and ends its line; `None` if standard output was closed. With `quiet` nothing is printed.
pub(crate) fn answer(
    session: &mut Session,
    sampler: &mut Sampler,
    most: usize,
    quiet: bool,
) -> Result<Option<Reply>, Failure> {
    let cancel = Cancel::default();
    session.set_cancel(cancel.clone());
    let mut out = std::io::stdout().lock();
    let mut failed = None;
    let mut put = |text: &str| {
        if !quiet && let Err(e) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            failed.get_or_insert(e);
            cancel.cancel();
        }
    };
    let reply = session.answer(sampler, most, &mut put);
    if reply.as_ref().is_ok_and(|(_, reply)| !reply.text.ends_with('\n')) {
        put("\n");
    }
    match failed {
        Some(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(None),
        Some(e) => return Err(Failure::new(format!("standard output: {e}"))),
        None => {}
    }
    let reply = reply?.1;
    match reply.ended {
        Ended::Full => {
            eprintln!("note: the answer was cut after {} tokens: -n sets how many there may be", reply.written)
        }
        Ended::NoRoom => eprintln!("note: the answer was cut: the context of the model is full"),
        Ended::Stopped | Ended::Cancelled => {}
    }
    Ok(Some(reply))
}
