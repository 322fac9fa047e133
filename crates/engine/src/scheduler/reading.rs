//! A prompt that is being read.

use super::request::{Event, Pin, Request};
use crate::scheduler::plan::Ticket;
use crate::{CHUNK, Engine, Error, Logprob, Session, Texts};

/// Rows of logits that are computed together.
const ROWS: usize = 64;

/// A request whose prompt is being read.
pub(super) struct Reading {
    pub(super) request: Request,
    /// The session so far; `None` while it waits for that of another prompt.
    pub(super) session: Option<Session>,
    /// The prompts that go on from this one's state after so many tokens.
    pub(super) followers: Vec<(usize, Ticket)>,
    /// Where states are kept, and the numbers of tokens after which they are, ascending.
    pub(super) texts: Option<Texts>,
    pub(super) halts: Vec<usize>,
    /// The tokens of the state that the prompt goes on behind, which are not in the prompt.
    pub(super) before: usize,
    /// The bytes of its states.
    pub(super) bytes: u64,
}

impl Reading {
    /// How many tokens of the prompt the session has read.
    pub(super) fn at(&self) -> usize {
        self.session.as_ref().map_or(0, |session| session.tokens() as usize - self.before)
    }

    /// Tells the state, if the request wants it at this place.
    pub(super) fn pin(&mut self) {
        let Some(session) = self.session.as_ref().filter(|_| self.request.pin == Pin::Yes) else { return };
        let (at, whole) = (self.at(), self.request.prompt.len());
        let below = session.engine().model.decoder.cut().below(whole);
        if (at == below || at == whole) && at > 0 && !(self.request.tell)(Event::State(Box::new(session.clone()))) {
            self.request.cancel.cancel();
        }
    }

    /// Reads the next `tokens` tokens, and tells the log-probabilities of the prompt if they are asked for.
    pub(super) fn read(&mut self, engine: &Engine, tokens: usize) -> Result<(), Error> {
        let at = self.at();
        let Some(session) = &mut self.session else { return Ok(()) };
        let chunk = &self.request.prompt[at..at + tokens];
        match self.request.prompt_logprobs {
            None => session.read(chunk),
            Some(top) => {
                let scored = scored(session, engine, &self.request.prompt, [at, tokens], top)?;
                if !scored.is_empty() {
                    (self.request.tell)(Event::Scored(scored));
                }
                Ok(())
            }
        }
    }
}

/// Reads `tokens` tokens of `ids` from `at` on, and returns the log-probabilities of the tokens behind each, as far as they are in `ids`. The logits are
/// computed for blocks of rows: those of a whole prompt never exist at a time.
fn scored(
    session: &mut Session,
    engine: &Engine,
    ids: &[u32],
    [at, tokens]: [usize; 2],
    top: usize,
) -> Result<Vec<Logprob>, Error> {
    let mut scored = Vec::with_capacity(tokens);
    let decoder = &engine.model.decoder;
    // The calls of every other reading of this text.
    for call in decoder.cut().calls(at..at + tokens, CHUNK) {
        let chunk = &ids[call.clone()];
        session.logits = engine.run(|| {
            let hidden = decoder.forward(chunk, &mut session.cache, None);
            for from in (0..chunk.len()).step_by(ROWS) {
                let rows = ROWS.min(chunk.len() - from);
                let logits = decoder.logits(hidden.clone().narrow(1, from, rows)).into_data();
                let logits: Vec<f32> = logits.try_into_vec().expect("logits are f32");
                for (row, id) in logits.chunks_exact(decoder.vocabulary()).zip(&ids[call.start + from + 1..]) {
                    scored.push(Logprob::of(engine.finite(row)?, *id, top));
                }
            }
            // The last row by itself, as in every other reading.
            let logits = decoder.logits(hidden.narrow(1, chunk.len() - 1, 1)).into_data();
            Ok::<Vec<f32>, Error>(logits.try_into_vec().expect("logits are f32"))
        })?;
        session.history.read(chunk);
        session.note(chunk);
    }
    Ok(scored)
}
