//! What the engine's thread does next. The plan knows counts and times, not states: its tests set the clock.
//!
//! Answers are written in steps of all running sequences. Between two steps, prompts are read and jobs are done for [`STALL`], or as long as a step takes if that
//! is longer: while a prompt waits, writing then has at most half of the time. A prompt is read in chunks that end at multiples of `cut` tokens from its
//! beginning and then its tail in a call of its own, so that no bit depends on what else runs.

use std::time::Duration;

use super::fair::Fair;
use crate::CHUNK;

/// How long prompts are read between two steps of writing.
pub(super) const STALL: Duration = Duration::from_millis(50);

/// The name of a request.
pub(super) type Ticket = u64;

/// What is done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// A waiting request gets its place.
    Admit(Ticket),
    /// The next tokens of a prompt are read.
    Read { ticket: Ticket, tokens: usize },
    /// One token of each running sequence.
    Step,
    /// One of the jobs.
    Job,
    /// There is nothing to do.
    Idle,
}

/// A request that waits for a place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    pub(super) tenant: u64,
    pub(super) model: usize,
    pub(super) tokens: usize,
    pub(super) rows: usize,
    /// Whether its chunks are as long as they can be, whatever else runs, since it goes on behind a state that was not left by reading.
    pub(super) whole_chunks: bool,
    /// The bytes of its states.
    pub(super) bytes: u64,
}

/// A prompt that is being read.
#[derive(Clone, Copy, Debug)]
struct Reading {
    of: Waiting,
    at: usize,
    /// A chunk ends here, since another request goes on from there or a state is kept there.
    halt: Option<usize>,
    /// It waits until another prompt has been read so far.
    follows: bool,
}

/// The speed at which a model reads, in tokens a second.
#[derive(Clone, Copy, Debug, Default)]
struct Speed(Option<f64>);

impl Speed {
    fn note(&mut self, tokens: usize, took: Duration) {
        let now = tokens as f64 / took.as_secs_f64().max(1e-6);
        self.0 = Some(self.0.map_or(now, |before| 0.7 * before + 0.3 * now));
    }
}

/// The plan of an engine's thread.
#[derive(Debug)]
pub(super) struct Plan {
    most_rows: usize,
    most_bytes: u64,
    /// The bytes of the states of those that have a place.
    held: u64,
    /// For each model: chunks end at multiples of this many tokens.
    cuts: Vec<usize>,
    speeds: Vec<Speed>,
    waiting: Vec<Waiting>,
    reading: Vec<Reading>,
    /// Sequences that are being written.
    running: usize,
    jobs: usize,
    /// Whether the last work between steps was a job.
    last_was_job: bool,
    admissions: Fair,
    readers: Fair,
    /// How long the last step took, and the work since.
    step: Duration,
    since: Duration,
}

impl Plan {
    pub(super) fn new((most_rows, most_bytes): (usize, u64), cuts: Vec<usize>) -> Self {
        let speeds = vec![Speed::default(); cuts.len()];
        Self {
            most_rows,
            most_bytes,
            held: 0,
            cuts,
            speeds,
            waiting: Vec::new(),
            reading: Vec::new(),
            running: 0,
            jobs: 0,
            last_was_job: false,
            admissions: Fair::default(),
            readers: Fair::default(),
            step: Duration::ZERO,
            since: Duration::ZERO,
        }
    }

    /// The states of those that have a place have so many bytes.
    pub(super) fn hold(&mut self, bytes: u64) {
        self.held = bytes;
    }

    /// A request waits for a place.
    pub(super) fn wait(&mut self, request: Waiting) {
        self.waiting.push(request);
    }

    /// A job waits.
    pub(super) fn job(&mut self) {
        self.jobs += 1;
    }

    /// What to do next.
    pub(super) fn next(&self) -> Action {
        if let Some(request) = self.admissible() {
            return Action::Admit(request.ticket);
        }
        let read = self.reader().map(|reading| (reading, self.chunk(reading)));
        if self.running > 0 {
            let allowed = STALL.max(self.step);
            let fits = |(reading, tokens): &(&Reading, usize)| {
                self.since.is_zero() || self.since + self.takes(reading.of.model, *tokens) <= allowed
            };
            let work = self.jobs > 0 || read.as_ref().is_some_and(fits);
            if !work || self.since >= allowed {
                return Action::Step;
            }
        }
        match read {
            _ if self.jobs > 0 && (read.is_none() || !self.last_was_job) => Action::Job,
            Some((reading, tokens)) => Action::Read { ticket: reading.of.ticket, tokens },
            None => Action::Idle,
        }
    }

    /// The waiting request whose turn it is, if there is room for it. Others do not overtake it.
    fn admissible(&self) -> Option<&Waiting> {
        let tenant = self.admissions.next(self.waiting.iter().map(|waiting| waiting.tenant))?;
        let first = self.waiting.iter().find(|waiting| waiting.tenant == tenant)?;
        let fits = self.held == 0 || self.held.saturating_add(first.bytes) <= self.most_bytes;
        (fits && self.rows() + first.rows <= self.most_rows).then_some(first)
    }

    /// Sequences that have a place.
    pub(super) fn rows(&self) -> usize {
        self.running + self.reading.iter().map(|reading| reading.of.rows).sum::<usize>()
    }

    /// The prompt whose turn it is: of its tenant's, the first with less than a chunk left, or else the first.
    fn reader(&self) -> Option<&Reading> {
        let ready = || self.reading.iter().filter(|reading| !reading.follows);
        let tenant = self.readers.next(ready().map(|reading| reading.of.tenant))?;
        let own = || ready().filter(|reading| reading.of.tenant == tenant);
        own().find(|reading| reading.of.tokens - reading.at < CHUNK).or_else(|| own().next())
    }

    /// How many tokens of a prompt are read at a time.
    fn chunk(&self, reading: &Reading) -> usize {
        let (cut, whole) = (self.cuts[reading.of.model], reading.of.tokens);
        if reading.of.whole_chunks {
            return CHUNK.min(whole - reading.at);
        }
        let grid = whole / cut * cut;
        if reading.at >= grid {
            return whole - reading.at;
        }
        let mut most = CHUNK.max(cut) / cut * cut;
        if self.running > 0 {
            let left = STALL.max(self.step).saturating_sub(self.since);
            let speed = self.speeds[reading.of.model].0.unwrap_or(0.0);
            let fits = (left.as_secs_f64() * speed) as usize / cut * cut;
            most = fits.clamp(cut, most);
        }
        let end = reading.halt.filter(|halt| *halt > reading.at).map_or(grid, |halt| halt.min(grid));
        most.min(end - reading.at)
    }

    /// How long reading is expected to take.
    fn takes(&self, model: usize, tokens: usize) -> Duration {
        self.speeds[model].0.map_or(Duration::ZERO, |speed| Duration::from_secs_f64(tokens as f64 / speed.max(1e-3)))
    }

    /// A request got its place, and the first `cached` of its tokens are known.
    pub(super) fn admitted(&mut self, ticket: Ticket, cached: usize) {
        let Some(at) = self.waiting.iter().position(|waiting| waiting.ticket == ticket) else { return };
        let of = self.waiting.remove(at);
        self.admissions.serve(of.tenant, of.tokens - cached);
        self.reading.push(Reading { of, at: cached, halt: None, follows: false });
    }

    /// How far a prompt has been read.
    pub(super) fn at(&self, ticket: Ticket) -> Option<usize> {
        self.reading.iter().find(|reading| reading.of.ticket == ticket).map(|reading| reading.at)
    }

    /// A chunk of a prompt ends after `at` tokens.
    pub(super) fn halt(&mut self, ticket: Ticket, at: Option<usize>) {
        if let Some(reading) = self.reading.iter_mut().find(|reading| reading.of.ticket == ticket) {
            reading.halt = at;
        }
    }

    /// A prompt waits for another one.
    pub(super) fn follow(&mut self, ticket: Ticket) {
        if let Some(reading) = self.reading.iter_mut().find(|reading| reading.of.ticket == ticket) {
            reading.follows = true;
        }
    }

    /// A prompt that waited goes on after `at` tokens.
    pub(super) fn go_on(&mut self, ticket: Ticket, at: usize) {
        if let Some(reading) = self.reading.iter_mut().find(|reading| reading.of.ticket == ticket) {
            (reading.follows, reading.at) = (false, at);
        }
    }

    /// Tokens of a prompt were read. True if that was all of it: its sequences are then running.
    pub(super) fn read(&mut self, ticket: Ticket, tokens: usize, took: Duration) -> bool {
        (self.since, self.last_was_job) = (self.since + took, false);
        let Some(i) = self.reading.iter().position(|reading| reading.of.ticket == ticket) else { return false };
        let reading = &mut self.reading[i];
        reading.at += tokens;
        let Reading { of, at, .. } = *reading;
        // Short calls say little about the speed of long ones.
        if tokens >= self.cuts[of.model] {
            self.speeds[of.model].note(tokens, took);
        }
        self.readers.serve(of.tenant, tokens);
        if at < of.tokens {
            return false;
        }
        self.reading.remove(i);
        self.running += of.rows;
        true
    }

    /// A step was made.
    pub(super) fn stepped(&mut self, took: Duration) {
        (self.step, self.since) = (took, Duration::ZERO);
    }

    /// A job was done.
    pub(super) fn did(&mut self, took: Duration) {
        self.jobs = self.jobs.saturating_sub(1);
        (self.since, self.last_was_job) = (self.since + took, true);
    }

    /// Running sequences ended.
    pub(super) fn ended(&mut self, rows: usize) {
        self.running = self.running.saturating_sub(rows);
        if self.running == 0 {
            (self.step, self.since) = (Duration::ZERO, Duration::ZERO);
        }
    }

    /// A request that was waiting or whose prompt was read is gone.
    pub(super) fn remove(&mut self, ticket: Ticket) {
        self.waiting.retain(|waiting| waiting.ticket != ticket);
        self.reading.retain(|reading| reading.of.ticket != ticket);
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
