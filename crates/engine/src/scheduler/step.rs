//! A step of writing: a token of each answer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::parked::{Parked, grace};
use super::plan::Ticket;
use super::request::Failure;
use super::worker::Worker;

impl Worker {
    /// Writes a token of each answer.
    pub(super) fn step(&mut self) {
        self.resume();
        let start = Instant::now();
        for model in 0..self.models.len() {
            if !self.batches[model].rows.is_empty() {
                self.step_of(model);
            }
        }
        self.shared.steps.fetch_add(1, Ordering::Relaxed);
        self.plan.stepped(start.elapsed());
    }

    fn step_of(&mut self, model: usize) {
        let (engine, batch) = (&self.models[model], &mut self.batches[model]);
        let (rows, start) = (batch.rows.len(), Instant::now());
        let Ok(logits) = catch_unwind(AssertUnwindSafe(|| batch.step(engine))) else {
            // Which of the rows the fault belongs to is unknown, and the state of all is lost.
            self.plan.ended(rows);
            let mut tickets = batch.clear();
            tickets.dedup();
            return tickets.into_iter().for_each(|ticket| self.fail(ticket, Failure::Panicked));
        };
        let (mut ended, mut failed, mut late) = (vec![false; rows], Vec::new(), Vec::new());
        let (width, until) = (logits.len() / rows, grace(start.elapsed()));
        for (i, (row, logits)) in batch.rows.iter_mut().zip(logits.chunks_exact(width)).enumerate() {
            let Some(writing) = self.writing.get_mut(&row.ticket) else { continue };
            if !row.is_ready(until) {
                late.push((i, logits.to_vec()));
                continue;
            }
            match catch_unwind(AssertUnwindSafe(|| row.choose(engine, logits, writing))) {
                Ok(Ok(goes_on)) => ended[i] = !goes_on,
                Ok(Err(error)) => failed.push((row.ticket, error)),
                Err(_) => failed.push((row.ticket, Failure::Panicked)),
            }
        }
        self.shared.written.fetch_add(rows as u64, Ordering::Relaxed);
        for (i, logits) in late.into_iter().rev() {
            ended.remove(i);
            let (row, state) = batch.part(i);
            self.parked.push(Parked { model, row, state, logits });
        }
        let tickets: Vec<Ticket> =
            batch.rows.iter().zip(&ended).filter(|(_, ended)| **ended).map(|(row, _)| row.ticket).collect();
        let mut at = ended.into_iter();
        let left = batch.retain(|_| !at.next().unwrap_or(false));
        self.plan.ended(left);
        failed.into_iter().for_each(|(ticket, why)| self.fail(ticket, why));
        tickets.into_iter().for_each(|ticket| self.finish(ticket));
    }
}
