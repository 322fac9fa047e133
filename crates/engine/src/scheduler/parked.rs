//! Answers that sit out, since it is not known yet which tokens may follow in them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use longreach_nn::Cache;

use super::plan::Ticket;
use super::request::Failure;
use super::rows::Row;
use super::worker::Worker;

/// The shortest time that a step waits for masks.
const GRACE: Duration = Duration::from_millis(1);
/// How long the engine's thread waits at a time if all answers sit out.
const PAUSE: Duration = Duration::from_millis(5);

/// An answer that waits for the tokens that may follow.
pub(super) struct Parked {
    pub(super) model: usize,
    pub(super) row: Row,
    pub(super) state: Cache,
    /// The logits that its next token is sampled from.
    pub(super) logits: Vec<f32>,
}

/// Until when a step that took so long waits for masks.
pub(super) fn grace(step: Duration) -> Instant {
    Instant::now() + GRACE.max(step / 4)
}

impl Worker {
    /// The answers whose next tokens are known go on.
    pub(super) fn resume(&mut self) {
        // If nothing else is to do, the first one is waited for.
        let idle = self.batches.iter().all(|batch| batch.rows.is_empty());
        let mut until = Instant::now() + if idle { PAUSE } else { Duration::ZERO };
        let mut at = 0;
        while at < self.parked.len() {
            let ready = self.parked[at].row.is_ready(until);
            if !ready {
                (until, at) = (Instant::now(), at + 1);
                continue;
            }
            let Parked { model, mut row, state, logits } = self.parked.remove(at);
            let ticket = row.ticket;
            let Some(writing) = self.writing.get_mut(&ticket) else { continue };
            let engine = &self.models[model];
            match catch_unwind(AssertUnwindSafe(|| row.choose(engine, &logits, writing))) {
                Ok(Ok(true)) => self.batches[model].join(row, state),
                Ok(Ok(false)) => {
                    self.plan.ended(1);
                    self.finish(ticket);
                }
                Ok(Err(error)) => self.unpark(ticket, error),
                Err(_) => self.unpark(ticket, Failure::Panicked),
            }
        }
    }

    /// An answer that is in no list any more has failed.
    fn unpark(&mut self, ticket: Ticket, why: Failure) {
        self.plan.ended(1);
        self.fail(ticket, why);
    }
}
