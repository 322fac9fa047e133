//! Generating tokens: one at a time, or several where they were proposed.

use std::ops::ControlFlow;

use longreach_nn::Mark;

use crate::{Error, Sampler, Session, Speculation};

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The model ended it, or a stop string was found.
    Stopped,
    /// It reached the maximum number of tokens.
    Full,
    /// The text reached the longest length of the model ([`Engine::longest`](crate::Engine::longest)).
    NoRoom,
    /// It was cancelled.
    Cancelled,
}

/// Tokens that were read at once and are looked at one after the other.
struct Few {
    /// The token that is certain, and the proposals behind it.
    ids: Vec<u32>,
    /// The logits after each.
    logits: Vec<Vec<f32>>,
    /// The state before, if there were proposals.
    mark: Option<Mark>,
}

impl Session {
    /// Generates up to `most` tokens and calls `each` with every one, which ends the text by breaking off: the token that it
    /// broke off at has been read, and none behind it. Returns why it ended.
    ///
    /// Tokens, state and random stream are those without speculation, in every bit. With speculation, the session must keep
    /// its text: see [`Session::keep_text`]. Errors if nothing was read yet, a logit is NaN or +∞, or `each` fails; what was
    /// generated before has then been read.
    pub fn generate<E: From<Error>>(
        &mut self,
        sampler: &mut Sampler,
        most: usize,
        speculation: &mut Speculation,
        mut each: impl FnMut(u32) -> Result<ControlFlow<()>, E>,
    ) -> Result<Ended, E> {
        let mut written = 0;
        // The token that was sampled in place of a proposal, and the position of the random stream before it.
        let mut sampled: Option<(u32, u128)> = None;
        loop {
            if written == most {
                return Ok(Ended::Full);
            }
            if self.room() == Some(0) {
                return Ok(Ended::NoRoom);
            }
            let (next, position) = match sampled.take() {
                Some(sampled) => sampled,
                None if self.cancel.is_cancelled() => return Ok(Ended::Cancelled),
                None => {
                    let position = sampler.position();
                    (sampler.choose(self.finite_logits()?, &self.history), position)
                }
            };
            let room = self.room().map_or(usize::MAX, |room| usize::try_from(room).unwrap_or(usize::MAX));
            let proposals = speculation.propose(self, next, sampler, (most - written).min(room) - 1);
            let few = match proposals.and_then(|proposals| self.read_few(next, proposals)) {
                Ok(few) => few,
                Err(error) => {
                    // The token was not read, so that it was not generated.
                    sampler.set_position(position);
                    return if matches!(error, Error::Cancelled) { Ok(Ended::Cancelled) } else { Err(error.into()) };
                }
            };
            self.history.write(next);
            let mut kept = 0;
            let flow = loop {
                let flow = each(few.ids[kept]);
                kept += 1;
                if !matches!(flow, Ok(ControlFlow::Continue(()))) || kept == few.ids.len() || self.cancel.is_cancelled()
                {
                    break flow;
                }
                let position = sampler.position();
                let id = match self.engine.finite(&few.logits[kept - 1]) {
                    Ok(logits) => sampler.choose(logits, &self.history),
                    Err(error) => break Err(error.into()),
                };
                if id != few.ids[kept] {
                    sampled = Some((id, position));
                    break flow;
                }
                self.history.write(id);
            };
            speculation.judge(few.ids.len() - 1, kept - 1);
            written += kept;
            self.keep_few(few, kept);
            if flow?.is_break() {
                return Ok(Ended::Stopped);
            }
        }
    }

    /// Reads a token that is certain and proposals behind it.
    fn read_few(&mut self, next: u32, proposals: Vec<u32>) -> Result<Few, Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.canonical = false;
        let mark = (!proposals.is_empty()).then(|| self.cache.mark());
        let ids: Vec<u32> = std::iter::once(next).chain(proposals).collect();
        let logits = self.forward(&ids, ids.len());
        Ok(Few { ids, logits, mark })
    }

    /// Keeps the first tokens of those that were read.
    fn keep_few(&mut self, few: Few, kept: usize) {
        let Few { ids, mut logits, mark } = few;
        if let Some(mark) = mark.filter(|_| kept < ids.len()) {
            self.take_back(mark, &ids[..kept]);
        }
        self.logits = logits.swap_remove(kept - 1);
        self.note(&ids[..kept]);
    }

    /// Takes the state back to a mark and the tokens `kept` behind it.
    fn take_back(&mut self, mark: Mark, kept: &[u32]) {
        let have = self.cache.rewind(mark, kept.len());
        if have < kept.len() {
            self.forward(&kept[have..], 0);
        }
    }

    /// Marks the state, so that [`Session::rewind`] can take it back to here.
    pub(crate) fn mark(&self) -> Mark {
        self.cache.mark()
    }

    /// Takes the session back to a mark and the first `kept` of the tokens `read` since. There are no logits, and the tokens
    /// behind stay in its history, which a session that proposes tokens does not use.
    pub(crate) fn rewind(&mut self, mark: Mark, read: &[u32], kept: usize) {
        if kept < read.len() {
            self.canonical = false;
            self.take_back(mark, &read[..kept]);
            self.tokens -= (read.len() - kept) as u64;
        }
    }
}
