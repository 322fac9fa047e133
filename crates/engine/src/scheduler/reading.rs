//! A prompt that is being read.

use super::request::{Event, Request};
use crate::scheduler::plan::Ticket;
use crate::{Engine, Error, Logprob, Session};

/// Rows of logits that are computed together.
const ROWS: usize = 64;

/// A request whose prompt is being read.
pub(super) struct Reading {
    pub(super) request: Request,
    /// The session so far; `None` while it waits for that of another prompt.
    pub(super) session: Option<Session>,
    /// The prompts that go on from this one's state after so many tokens.
    pub(super) followers: Vec<(usize, Ticket)>,
    /// The tokens that need not be read.
    pub(super) cached: usize,
}

impl Reading {
    /// Reads the next `tokens` tokens, and tells the log-probabilities of the prompt if they are asked for.
    pub(super) fn read(&mut self, engine: &Engine, tokens: usize) -> Result<(), Error> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let at = session.tokens() as usize;
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
    let chunk = &ids[at..at + tokens];
    let decoder = &engine.model.decoder;
    let last = engine.run(|| {
        let hidden = decoder.forward(chunk, &mut session.cache, None);
        for from in (0..tokens).step_by(ROWS) {
            let rows = ROWS.min(tokens - from);
            let logits = decoder.logits(hidden.clone().narrow(1, from, rows)).into_data();
            let logits: Vec<f32> = logits.try_into_vec().expect("logits are f32");
            for (row, id) in logits.chunks_exact(decoder.vocabulary()).zip(&ids[at + from + 1..]) {
                scored.push(Logprob::of(engine.finite(row)?, *id, top));
            }
        }
        // A row by itself, as in every other reading of a prompt.
        let logits = decoder.logits(hidden.narrow(1, tokens - 1, 1)).into_data();
        Ok::<Vec<f32>, Error>(logits.try_into_vec().expect("logits are f32"))
    })?;
    session.logits = last;
    session.history.read(chunk);
    session.note(chunk);
    Ok(scored)
}
