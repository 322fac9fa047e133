//! Speculative decoding: tokens are proposed, and up to [`Decoder::FEW`] are read at once. A proposal is kept if it is the
//! token that is sampled at its place, so that the text is that without speculation, in every bit.
//!
//! Leviathan, Kalman, Matias 2023, with one random stream instead of two: a token is sampled from the logits of the model
//! whether there was a proposal or not, and the proposal is compared with it.

use std::fmt;

use longreach_nn::Decoder;

use crate::{Engine, Error, Sampler, Session};

mod draft;
mod lookup;

use draft::Draft;
use lookup::Lookup;

/// What proposes tokens.
enum Proposer {
    /// Nothing does.
    Nobody,
    /// What followed the last tokens where they occurred before in the text.
    Lookup(Lookup),
    /// A smaller model.
    Draft(Box<Draft>),
}

/// A proposer of tokens, how many it proposes, and how many were kept.
pub struct Speculation {
    proposer: Proposer,
    pace: Pace,
    /// Number of tokens that were proposed.
    pub proposed: u64,
    /// Number of proposed tokens that were kept.
    pub accepted: u64,
}

impl fmt::Debug for Speculation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Speculation").field("proposed", &self.proposed).field("accepted", &self.accepted).finish()
    }
}

/// The most proposals that are read at once, behind a token that is certain.
const MOST: usize = Decoder::FEW - 1;

impl Speculation {
    fn of(proposer: Proposer) -> Self {
        Self { proposer, pace: Pace::default(), proposed: 0, accepted: 0 }
    }

    /// No speculation: one token is read at a time.
    pub fn none() -> Self {
        Self::of(Proposer::Nobody)
    }

    /// Proposes what followed the last tokens where they occurred before in the text. Errors if the model of `engine`
    /// depends on how many tokens are read at once.
    pub fn lookup(engine: &Engine) -> Result<Self, Error> {
        fits(engine)?;
        Ok(Self::of(Proposer::Lookup(Lookup::default())))
    }

    /// Proposes what a smaller model samples with the same random numbers. Errors if the model of `engine` depends on how
    /// many tokens are read at once, or if `draft` has other tokens.
    pub fn draft(engine: &Engine, draft: &Engine) -> Result<Self, Error> {
        fits(engine)?;
        Ok(Self::of(Proposer::Draft(Box::new(Draft::new(engine, draft)?))))
    }

    /// Whether tokens are proposed: a session must then keep its text, see [`Session::keep_text`].
    pub fn is_on(&self) -> bool {
        !matches!(self.proposer, Proposer::Nobody)
    }

    /// Reads the text of a session as far as proposals need it. This happens by itself when text is generated; a draft model
    /// reads as long a text as the model did.
    pub fn prepare(&mut self, session: &Session) -> Result<(), Error> {
        match &mut self.proposer {
            Proposer::Nobody => Ok(()),
            Proposer::Lookup(lookup) => {
                lookup.follow(session.text());
                Ok(())
            }
            Proposer::Draft(draft) => draft.follow(session.text(), &session.cancel),
        }
    }

    /// Up to `most` tokens that may follow the text and the token `next`, which will be read after it.
    pub(crate) fn propose(
        &mut self,
        session: &Session,
        next: u32,
        sampler: &Sampler,
        most: usize,
    ) -> Result<Vec<u32>, Error> {
        if !self.is_on() || most == 0 {
            return Ok(Vec::new());
        }
        self.prepare(session)?;
        let most = self.pace.width(most.min(MOST));
        if most == 0 {
            return Ok(Vec::new());
        }
        match &mut self.proposer {
            Proposer::Nobody => Ok(Vec::new()),
            Proposer::Lookup(lookup) => Ok(lookup.propose(next, most)),
            Proposer::Draft(draft) => draft.propose(next, sampler.clone(), session.history.clone(), most),
        }
    }

    /// Counts how many of some proposals were kept.
    pub(crate) fn judge(&mut self, proposed: usize, accepted: usize) {
        if proposed > 0 {
            self.proposed += proposed as u64;
            self.accepted += accepted as u64;
            self.pace.judge(proposed, accepted);
        }
    }
}

/// An error if reading several tokens at once changes what the model computes.
fn fits(engine: &Engine) -> Result<(), Error> {
    match engine.model.decoder.reads_few_as_one() {
        true => Ok(()),
        false => Err(Error::Speculation {
            name: engine.name.clone(),
            message:
                "its layers remember segments of the text, whose bounds depend on how many tokens are read at once: \
                      it cannot read proposed tokens and forget them again"
                    .into(),
        }),
    }
}

/// How many tokens are proposed: more while proposals are kept, and none for a while if they are not.
#[derive(Debug)]
struct Pace {
    width: usize,
    /// Tokens until the next proposal.
    wait: usize,
    /// Tokens without proposals after the next failure.
    pause: usize,
}

/// The longest time without proposals, in tokens.
const LONGEST_PAUSE: usize = 32;

impl Default for Pace {
    fn default() -> Self {
        Self { width: MOST, wait: 0, pause: 1 }
    }
}

impl Pace {
    /// The number of proposals, of `most`, for the next token.
    fn width(&mut self, most: usize) -> usize {
        match self.wait.checked_sub(1) {
            Some(less) => {
                self.wait = less;
                0
            }
            None => self.width.min(most),
        }
    }

    fn judge(&mut self, proposed: usize, accepted: usize) {
        if accepted == proposed {
            (self.width, self.pause) = ((proposed + 1).clamp(self.width, MOST), 1);
        } else if accepted > 0 {
            (self.width, self.pause) = (accepted, 1);
        } else {
            (self.width, self.wait) = (1, self.pause - 1);
            self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_proposals_follows_their_success() {
        let mut pace = Pace::default();
        let mut widths = |judged: &[Option<(usize, usize)>]| -> Vec<usize> {
            judged
                .iter()
                .map(|judged| {
                    let width = pace.width(MOST);
                    judged.iter().for_each(|(proposed, accepted)| pace.judge(*proposed, *accepted));
                    width
                })
                .collect()
        };
        assert_eq!(widths(&[Some((3, 3)), Some((3, 1)), Some((1, 1)), Some((2, 2)), Some((3, 3))]), [3, 3, 1, 2, 3]);
        // Failures are followed by pauses of 0, 1 and 3 tokens.
        let failed = Some((1, 0));
        assert_eq!(widths(&[failed, failed, None, failed, None, None, None, None]), [3, 1, 0, 1, 0, 0, 0, 1]);
    }
}
