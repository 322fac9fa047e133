//! The engine's thread.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvError, TryRecvError};
use std::time::Instant;

use super::beginning::Beginning;
use super::masks::Masks;
use super::parked::Parked;
use super::plan::{Action, Plan, Ticket, Waiting};
use super::reading::Reading;
use super::request::{Event, Failure, From, Pin, Request, Reuse};
use super::rows::{Batch, Row, Writing};
use super::{Command, Limits, Shared};
use crate::{CHUNK, Ended, Engine, Session, StateCache};

/// The state of the engine's thread.
pub(super) struct Worker {
    pub(super) models: Vec<Engine>,
    pub(super) cache: Option<StateCache>,
    commands: Receiver<Command>,
    pub(super) shared: Arc<Shared>,
    pub(super) plan: Plan,
    waiting: HashMap<Ticket, Request>,
    pub(super) reading: HashMap<Ticket, Reading>,
    pub(super) writing: HashMap<Ticket, Writing>,
    /// The answers of each model.
    pub(super) batches: Vec<Batch>,
    /// Those that sit out.
    pub(super) parked: Vec<Parked>,
    masks: Masks,
    jobs: std::collections::VecDeque<Box<dyn FnOnce() + Send>>,
    tickets: Ticket,
    /// For each model: the bytes of a state without cached keys, and those of the keys of a token as far as they are known.
    sizes: Vec<[u64; 2]>,
}

impl Worker {
    pub(super) fn new(
        models: Vec<Engine>,
        limits: Limits,
        cache: Option<StateCache>,
        commands: Receiver<Command>,
        shared: Arc<Shared>,
    ) -> Self {
        let cuts = models.iter().map(|engine| engine.model.decoder.cut().tokens).collect();
        let plan = Plan::new((limits.running, limits.bytes), cuts);
        let fixed = |engine: &Engine| engine.run(|| engine.model.decoder.start(1).without_rows().bytes()) as u64;
        let sizes = models.iter().map(|engine| [fixed(engine), 0]).collect();
        let batches = models.iter().map(|_| Batch::default()).collect();
        let (waiting, reading, writing) = (HashMap::new(), HashMap::new(), HashMap::new());
        let jobs = std::collections::VecDeque::new();
        let (parked, masks) = (Vec::new(), Masks::start());
        Self {
            models,
            cache,
            commands,
            shared,
            plan,
            waiting,
            reading,
            writing,
            batches,
            parked,
            masks,
            jobs,
            tickets: 0,
            sizes,
        }
    }

    /// Works until nobody can ask for anything any more.
    pub(super) fn work(mut self) {
        loop {
            self.shared.running.store(self.plan.rows(), Ordering::Relaxed);
            let reading = self.reading.values().map(|reading| reading.bytes);
            let held = reading.chain(self.writing.values().map(|writing| writing.bytes));
            self.plan.hold(held.fold(0, u64::saturating_add));
            let action = self.plan.next();
            let heard = match action {
                Action::Idle => self.commands.recv().map_err(|RecvError| TryRecvError::Disconnected),
                _ => self.commands.try_recv(),
            };
            match heard {
                Ok(command) => {
                    self.hear(command);
                    continue;
                }
                Err(TryRecvError::Disconnected) if action == Action::Idle => return,
                Err(_) => {}
            }
            if self.sweep() {
                continue;
            }
            match action {
                Action::Admit(ticket) => self.admit(ticket),
                Action::Read { ticket, tokens } => self.read(ticket, tokens),
                Action::Step => self.step(),
                Action::Job => self.job(),
                Action::Idle => {}
            }
        }
    }

    fn hear(&mut self, command: Command) {
        match command {
            Command::Request(request) => {
                let ticket = self.tickets;
                self.tickets += 1;
                let mut request = *request;
                if self.shared.closing.load(Ordering::Acquire) {
                    self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
                    (request.tell)(Event::Failed(Failure::Closing));
                    return;
                }
                let (tenant, model) = (request.tenant, request.model.min(self.models.len().saturating_sub(1)));
                let (tokens, rows) = (request.prompt.len(), request.choices);
                let whole_chunks = matches!(request.from, From::Behind(_));
                let bytes = self.bytes(&request);
                self.plan.wait(Waiting { ticket, tenant, model, tokens, rows, whole_chunks, bytes });
                self.waiting.insert(ticket, request);
            }
            Command::Job(job) => {
                self.plan.job();
                self.jobs.push_back(job);
            }
            Command::Close => {
                for (ticket, mut request) in std::mem::take(&mut self.waiting) {
                    self.plan.remove(ticket);
                    self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
                    (request.tell)(Event::Failed(Failure::Closing));
                }
            }
            Command::Stop => {
                self.reading.values().for_each(|reading| reading.request.cancel.cancel());
                self.writing.values().for_each(|writing| writing.cancel.cancel());
            }
        }
    }

    /// The bytes of the states of a request, as far as they are known before it is read: all answers share the keys of its prompt.
    fn bytes(&self, request: &Request) -> u64 {
        let Some([fixed, token]) = self.sizes.get(request.model) else { return 0 };
        let (choices, most) = (request.choices as u64, request.most as u64);
        let before = match &request.from {
            From::Behind(session) => session.tokens(),
            _ => 0,
        };
        let tokens = choices.saturating_mul(most).saturating_add(request.prompt.len() as u64).saturating_add(before);
        fixed.saturating_mul(choices).saturating_add(token.saturating_mul(tokens))
    }

    /// Removes the requests that were cancelled; true if there were any.
    fn sweep(&mut self) -> bool {
        let gone = |(ticket, cancelled): (&Ticket, bool)| cancelled.then_some(*ticket);
        let waiting = self.waiting.iter().map(|(ticket, request)| (ticket, request.cancel.is_cancelled()));
        let reading = self.reading.iter().map(|(ticket, reading)| (ticket, reading.request.cancel.is_cancelled()));
        let writing = self.writing.iter().map(|(ticket, writing)| (ticket, writing.cancel.is_cancelled()));
        let gone: Vec<Ticket> = waiting.chain(reading).chain(writing).filter_map(gone).collect();
        gone.iter().for_each(|ticket| self.fail(*ticket, Failure::Cancelled));
        !gone.is_empty()
    }

    /// Ends a request, wherever it is.
    pub(super) fn fail(&mut self, ticket: Ticket, failure: Failure) {
        if let Some(mut request) = self.waiting.remove(&ticket) {
            self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
            self.plan.remove(ticket);
            (request.tell)(Event::Failed(failure));
        } else if let Some(mut reading) = self.reading.remove(&ticket) {
            self.plan.remove(ticket);
            let at = reading.at();
            // Those that waited for its state go on from where it was.
            for (_, follower) in reading.followers.drain(..) {
                self.release(follower, reading.session.clone(), at);
            }
            for other in self.reading.values_mut() {
                other.followers.retain(|(_, follower)| *follower != ticket);
            }
            (reading.request.tell)(Event::Failed(failure));
        } else if let Some(mut writing) = self.writing.remove(&ticket) {
            let left: usize = self.batches.iter_mut().map(|batch| batch.retain(|row| row.ticket != ticket)).sum();
            let parked = self.parked.len();
            self.parked.retain(|parked| parked.row.ticket != ticket);
            self.plan.ended(left + parked - self.parked.len());
            writing.tell(Event::Failed(failure));
        }
    }

    /// A waiting request gets its place, behind the deepest state that is known of its prompt.
    fn admit(&mut self, ticket: Ticket) {
        let Some(mut request) = self.waiting.remove(&ticket) else { return self.plan.remove(ticket) };
        self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
        let model = request.model;
        let Some(engine) = self.models.get(model) else {
            (request.tell)(Event::Failed(Failure::Panicked));
            return self.plan.remove(ticket);
        };
        let bytes = self.bytes(&request);
        let Beginning { session, texts, halts, before } = self.beginning(engine, &mut request);
        let reuse = request.reuse == Reuse::Kept && request.prompt_logprobs.is_none();
        let at = session.tokens() as usize - before;
        self.plan.admitted(ticket, at);
        let mut reading =
            Reading { request, session: Some(session), followers: Vec::new(), texts, halts, before, bytes };
        let follows = reuse && reading.request.pin == Pin::No;
        if follows && let Some((leader, shared)) = self.leader(&reading, at) {
            self.plan.follow(ticket);
            reading.session = None;
            if let Some(leader) = self.reading.get_mut(&leader) {
                leader.followers.push((shared, ticket));
            }
            self.reading.insert(ticket, reading);
            return self.halt(leader);
        }
        let started = (reading.request.tell)(Event::Started { cached: before + at });
        if !started {
            reading.request.cancel.cancel();
        }
        reading.pin();
        let whole = at == reading.request.prompt.len();
        self.reading.insert(ticket, reading);
        self.halt(ticket);
        if whole {
            self.plan.read(ticket, 0, std::time::Duration::ZERO);
            self.begin(ticket);
        }
    }

    /// A prompt that waited goes on from a state that another prompt left after `at` tokens.
    fn release(&mut self, ticket: Ticket, session: Option<Session>, at: usize) {
        let Some(reading) = self.reading.get_mut(&ticket) else { return };
        // Of a prompt that scores its tokens, or was given up before it began, there is nothing to go on from.
        let engine = &self.models[reading.request.model];
        let (session, at) = match session.filter(|session| session.tokens() > 0) {
            Some(session) => (session, at),
            None => (engine.session(), 0),
        };
        reading.session = Some(session);
        if !(reading.request.tell)(Event::Started { cached: at }) {
            reading.request.cancel.cancel();
        }
        self.plan.go_on(ticket, at);
        self.halt(ticket);
        if at == self.reading[&ticket].request.prompt.len() {
            self.plan.read(ticket, 0, std::time::Duration::ZERO);
            self.begin(ticket);
        }
    }

    /// Says where the next chunk of a prompt ends at the latest.
    fn halt(&mut self, ticket: Ticket) {
        let Some(reading) = self.reading.get(&ticket) else { return };
        let at = self.plan.at(ticket).unwrap_or(0);
        let halts = reading.followers.iter().map(|(at, _)| *at).chain(reading.halts.iter().copied());
        self.plan.halt(ticket, halts.filter(|halt| *halt > at).min());
    }

    fn read(&mut self, ticket: Ticket, tokens: usize) {
        let Some(reading) = self.reading.get_mut(&ticket) else { return self.plan.remove(ticket) };
        let model = reading.request.model;
        let (engine, start) = (&self.models[model], Instant::now());
        let done = catch_unwind(AssertUnwindSafe(|| reading.read(engine, tokens)));
        let whole = self.plan.read(ticket, tokens, start.elapsed());
        match done {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return self.lost(ticket, whole, error.into()),
            Err(_) => return self.lost(ticket, whole, Failure::Panicked),
        }
        self.shared.read.fetch_add(tokens as u64, Ordering::Relaxed);
        let Some(session) = reading.session.clone() else { return };
        let at = reading.at();
        if !(reading.request.tell)(Event::Read { tokens: reading.before + at }) {
            reading.request.cancel.cancel();
        }
        reading.pin();
        if let Some(texts) = &reading.texts {
            if tokens >= CHUNK {
                texts.note_speed(tokens, start.elapsed());
            }
            if reading.halts.contains(&at) || whole {
                texts.keep(&reading.request.prompt, &session);
            }
        }
        let ready = |(follower, _): &(usize, Ticket)| *follower <= at;
        let (ready, rest): (Vec<_>, Vec<_>) = reading.followers.drain(..).partition(ready);
        reading.followers = rest;
        for (_, follower) in ready {
            self.release(follower, Some(session.clone()), at);
        }
        if whole { self.begin(ticket) } else { self.halt(ticket) }
    }

    /// A prompt could not be read.
    fn lost(&mut self, ticket: Ticket, whole: bool, why: Failure) {
        if whole && let Some(reading) = self.reading.get(&ticket) {
            self.plan.ended(reading.request.choices);
        }
        // A state after a fault is no beginning for others.
        if let Some(reading) = self.reading.get_mut(&ticket) {
            reading.session = None;
        }
        self.fail(ticket, why);
    }

    /// A prompt was read: its answers begin.
    fn begin(&mut self, ticket: Ticket) {
        let Some(Reading { request, session: Some(session), bytes, .. }) = self.reading.remove(&ticket) else { return };
        let [fixed, token] = &mut self.sizes[request.model];
        *token = (session.state_bytes() as u64).saturating_sub(*fixed) / session.tokens().max(1);
        let (model, choices) = (request.model, request.choices);
        let engine = self.models[model].clone();
        let first = catch_unwind(AssertUnwindSafe(|| {
            let logits = engine.finite(session.logits()?)?;
            (0..choices)
                .map(|choice| Row::new(&engine, ticket, choice, (&request, &self.masks), &session))
                .collect::<Result<Vec<_>, _>>()
                .map(|rows| (rows, logits))
        }));
        let mut writing = Writing { tell: request.tell, cancel: request.cancel, left: choices, bytes };
        let failed = match first {
            Ok(Ok((rows, logits))) => {
                let mut ended = 0;
                let mut failed = None;
                for (choice, mut row) in rows.into_iter().enumerate() {
                    if request.most == 0 {
                        writing.tell(Event::Ended {
                            choice,
                            why: Ended::Full,
                            thinking: String::new(),
                            text: String::new(),
                            call: String::new(),
                        });
                        (writing.left, ended) = (writing.left - 1, ended + 1);
                        continue;
                    }
                    if !row.is_ready(Instant::now()) {
                        let (state, logits) = (session.state().clone(), logits.to_vec());
                        self.parked.push(Parked { model, row, state, logits });
                        continue;
                    }
                    match catch_unwind(AssertUnwindSafe(|| row.choose(&engine, logits, &mut writing))) {
                        Ok(Ok(true)) => self.batches[model].join(row, session.state().clone()),
                        Ok(Ok(false)) => ended += 1,
                        Ok(Err(error)) => failed = Some(error),
                        Err(_) => failed = Some(Failure::Panicked),
                    }
                }
                self.plan.ended(ended);
                failed.map(|failed| (failed, choices - ended))
            }
            Ok(Err(error)) => Some((error.into(), choices)),
            Err(_) => Some((Failure::Panicked, choices)),
        };
        self.writing.insert(ticket, writing);
        if let Some((why, rows)) = failed {
            // Rows that joined are counted when they leave.
            let own = |row: &Row| row.ticket == ticket;
            let joined = self.batches[model].rows.iter().filter(|row| own(row)).count();
            let parked = self.parked.iter().filter(|parked| own(&parked.row)).count();
            self.plan.ended(rows - joined - parked);
            return self.fail(ticket, why);
        }
        self.finish(ticket);
    }

    /// Says that a request is done, if all of its answers are complete.
    pub(super) fn finish(&mut self, ticket: Ticket) {
        if self.writing.get(&ticket).is_some_and(|writing| writing.left == 0)
            && let Some(mut writing) = self.writing.remove(&ticket)
        {
            writing.tell(Event::Done);
        }
    }

    fn job(&mut self) {
        let start = Instant::now();
        if let Some(job) = self.jobs.pop_front() {
            // What a job leaves behind after a fault is dropped with it.
            catch_unwind(AssertUnwindSafe(job)).ok();
        }
        self.plan.did(start.elapsed());
    }
}
