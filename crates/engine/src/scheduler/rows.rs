//! The answers that are being written with a model: a batch whose rows join and leave.

use std::ops::ControlFlow;
use std::time::Instant;

use longreach_nn::Cache;

use super::constraint::{Constraint, Parts};
use super::masks::Masks;
use super::plan::Ticket;
use super::request::{Event, Failure, Request, Structure, Thoughts, Wrote};
use crate::grammar::Mask;
use crate::output::{Output, Watched};
use crate::thinking::tags;
use crate::{Cancel, Ended, Engine, Error, History, Logprob, Piece, Sampler, Session};

/// An answer that is being written.
pub(super) struct Row {
    pub(super) ticket: Ticket,
    choice: usize,
    sampler: Sampler,
    history: History,
    output: Output,
    constraint: Constraint,
    ends: Vec<u32>,
    least: usize,
    most: usize,
    logprobs: Option<usize>,
    /// The token that was sampled last and is read in the next step.
    next: u32,
}

/// What the answers of a request share.
pub(super) struct Writing {
    pub(super) tell: Box<dyn FnMut(Event) -> bool + Send>,
    pub(super) cancel: Cancel,
    /// The answers that are not complete.
    pub(super) left: usize,
    /// The bytes of their states.
    pub(super) bytes: u64,
}

impl Writing {
    /// Tells what happened; a request that nobody listens to is cancelled.
    pub(super) fn tell(&mut self, event: Event) {
        if !(self.tell)(event) {
            self.cancel.cancel();
        }
    }
}

/// The tags between which a model thinks.
fn thoughts(engine: &Engine) -> Option<[&'static str; 2]> {
    tags(engine.chat_template().ok()?, engine.tokenizer().ok()?)
}

impl Row {
    /// Answer `choice` to a prompt that `session` has read.
    pub(super) fn new(
        engine: &Engine,
        ticket: Ticket,
        choice: usize,
        (request, masks): (&Request, &Masks),
        session: &Session,
    ) -> Result<Self, Error> {
        let sampler = Sampler::new(request.sampling.clone())?.stream(choice as u64);
        let (tags, inside) = match request.thoughts {
            Thoughts::Together => (None, false),
            Thoughts::Apart { inside } => (thoughts(engine), inside),
        };
        let shown = match request.structure {
            Structure::None => Vec::new(),
            _ => engine.words()?.shown.clone(),
        };
        let watched = Watched {
            ends: request.ends.clone(),
            stops: request.stops.clone(),
            keeps_stop: request.keeps_stop,
            tags,
            inside,
            shown,
        };
        let output = Output::new(engine, session.writer()?, watched);
        let constraint = Constraint::new(&request.structure, masks, output.thinking.is_inside());
        Ok(Self {
            ticket,
            choice,
            sampler,
            history: session.history.clone(),
            output,
            constraint,
            ends: request.ends.clone(),
            least: request.least,
            most: request.most,
            logprobs: request.logprobs,
            next: 0,
        })
    }

    /// Whether it is known by `until` which tokens may follow.
    pub(super) fn is_ready(&mut self, until: Instant) -> bool {
        self.constraint.is_ready(until)
    }

    /// Samples a token from the logits after the last one and tells it. True if the answer goes on.
    pub(super) fn choose(&mut self, engine: &Engine, logits: &[f32], to: &mut Writing) -> Result<bool, Failure> {
        let raw = engine.finite(logits)?;
        let early = self.output.written < self.least && !self.ends.is_empty();
        let id = match self.constraint.mask()? {
            Some(mask) => within(&mut self.sampler, &self.history, raw, mask)?,
            None if early => {
                let mut logits = raw.to_vec();
                self.ends
                    .iter()
                    .for_each(|end| logits.get_mut(*end as usize).into_iter().for_each(|x| *x = f32::NEG_INFINITY));
                self.sampler.choose(&logits, &self.history)
            }
            None => self.sampler.choose(raw, &self.history),
        };
        self.history.write(id);
        self.next = id;
        let logprob = self.logprobs.map(|top| Logprob::of(raw, id, top));
        let (mut thinking, mut text) = (String::new(), String::new());
        let stopped = !self.constraint.is_within_call();
        let flow = self.output.push_with(id, stopped, &mut put(&mut thinking, &mut text))?;
        let parts = match flow {
            // An end, which a grammar allowed if there is one.
            ControlFlow::Break(()) => self.constraint.rest(text),
            ControlFlow::Continue(()) => self.constraint.wrote(id, text, self.output.thinking.is_inside())?,
        };
        let Parts { text, call, complete } = parts;
        to.tell(Event::Wrote(Wrote { choice: self.choice, id, logprob, thinking, text, call }));
        let why = match flow {
            _ if complete => Ended::Stopped,
            ControlFlow::Break(()) => Ended::Stopped,
            ControlFlow::Continue(()) if self.output.written >= self.most => Ended::Full,
            ControlFlow::Continue(()) => return Ok(true),
        };
        let (mut thinking, mut text) = (String::new(), String::new());
        self.output.finish(&mut put(&mut thinking, &mut text))?;
        let Parts { text, call, .. } = self.constraint.rest(text);
        to.tell(Event::Ended { choice: self.choice, why, thinking, text, call });
        to.left -= 1;
        Ok(false)
    }
}

/// Samples a token that a mask allows, also where the options of sampling leave none of them.
fn within(sampler: &mut Sampler, history: &History, raw: &[f32], mask: &Mask) -> Result<u32, Failure> {
    let id = sampler.choose(&mask.of(raw), history);
    if mask.allows(id) {
        return Ok(id);
    }
    let message = "the vocabulary has no token that the grammar allows here".to_owned();
    mask.best(raw).ok_or(Failure::Engine(Error::Grammar { at: String::new(), message }))
}

/// Appends pieces to the thoughts or to the text.
fn put<'a>(thinking: &'a mut String, text: &'a mut String) -> impl FnMut(Piece<'_>) + 'a {
    |piece| match piece {
        Piece::Thinking(piece) => thinking.push_str(piece),
        Piece::Text(piece) => text.push_str(piece),
    }
}

/// The rows of a model, and their states in one cache in the same order.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) rows: Vec<Row>,
    cache: Option<Cache>,
    /// The states of the last rows, which are not in the cache yet.
    joining: Vec<Cache>,
}

impl Batch {
    /// A row joins with the state after its prompt.
    pub(super) fn join(&mut self, row: Row, state: Cache) {
        self.rows.push(row);
        self.joining.push(state);
    }

    /// Rows leave unless `stays` holds for them; returns how many left.
    pub(super) fn retain(&mut self, mut stays: impl FnMut(&Row) -> bool) -> usize {
        let keep: Vec<bool> = self.rows.iter().map(&mut stays).collect();
        let left = keep.iter().filter(|keep| !**keep).count();
        if left == 0 {
            return 0;
        }
        let joined = self.rows.len() - self.joining.len();
        let rows: Vec<usize> = (0..joined).filter(|i| keep[*i]).collect();
        self.cache = match self.cache.take() {
            Some(_) if rows.is_empty() => None,
            Some(cache) if rows.len() < joined => Some(cache.select(&rows)),
            cache => cache,
        };
        let mut at = joined..;
        self.joining.retain(|_| at.next().is_some_and(|i| keep[i]));
        let mut keep = keep.into_iter();
        self.rows.retain(|_| keep.next().unwrap_or(false));
        left
    }

    /// A row leaves with its state, to join again.
    pub(super) fn part(&mut self, at: usize) -> (Row, Cache) {
        let joined = self.rows.len() - self.joining.len();
        let row = self.rows.remove(at);
        if at >= joined {
            return (row, self.joining.remove(at - joined));
        }
        let cache = self.cache.take().expect("the joined rows have a state");
        if joined == 1 {
            return (row, cache);
        }
        let own = cache.select(&[at]);
        let others: Vec<usize> = (0..joined).filter(|i| *i != at).collect();
        self.cache = Some(cache.select(&others));
        (row, own)
    }

    /// Reads the last token of each row and returns the logits after it, row by row.
    pub(super) fn step(&mut self, engine: &Engine) -> Vec<f32> {
        let states = self.cache.take().into_iter().chain(self.joining.drain(..));
        let mut states: Vec<Cache> = states.collect();
        let mut cache = if states.len() == 1 { states.remove(0) } else { Cache::join(states) };
        let ids: Vec<u32> = self.rows.iter().map(|row| row.next).collect();
        let decoder = &engine.model.decoder;
        let logits = engine.run(|| decoder.logits(decoder.forward(&ids, &mut cache, None)).into_data());
        self.cache = Some(cache);
        logits.try_into_vec().expect("logits are f32")
    }

    /// Drops all rows, after a fault.
    pub(super) fn clear(&mut self) -> Vec<Ticket> {
        (self.cache, self.joining) = (None, Vec::new());
        self.rows.drain(..).map(|row| row.ticket).collect()
    }
}
