//! The answers that are being written with a model: a batch whose rows join and leave.

use std::ops::ControlFlow;

use longreach_nn::Cache;

use super::plan::Ticket;
use super::request::{Event, Failure, Request, Thoughts, Wrote};
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
        request: &Request,
        session: &Session,
    ) -> Result<Self, Error> {
        let sampler = Sampler::new(request.sampling.clone())?.stream(choice as u64);
        let (tags, inside) = match request.thoughts {
            Thoughts::Together => (None, false),
            Thoughts::Apart { inside } => (thoughts(engine), inside),
        };
        let watched = Watched { ends: request.ends.clone(), stops: request.stops.clone(), tags, inside };
        Ok(Self {
            ticket,
            choice,
            sampler,
            history: session.history.clone(),
            output: Output::new(engine, session.writer()?, watched),
            ends: request.ends.clone(),
            least: request.least,
            most: request.most,
            logprobs: request.logprobs,
            next: 0,
        })
    }

    /// Samples a token from the logits after the last one and tells it. True if the answer goes on.
    pub(super) fn choose(&mut self, engine: &Engine, logits: &[f32], to: &mut Writing) -> Result<bool, Failure> {
        let raw = engine.finite(logits)?;
        let early = self.output.written < self.least && !self.ends.is_empty();
        let id = if early {
            let mut logits = raw.to_vec();
            self.ends
                .iter()
                .for_each(|end| logits.get_mut(*end as usize).into_iter().for_each(|x| *x = f32::NEG_INFINITY));
            self.sampler.choose(&logits, &self.history)
        } else {
            self.sampler.choose(raw, &self.history)
        };
        self.history.write(id);
        self.next = id;
        let logprob = self.logprobs.map(|top| Logprob::of(raw, id, top));
        let (mut thinking, mut text) = (String::new(), String::new());
        let flow = self.output.push(id, &mut put(&mut thinking, &mut text))?;
        to.tell(Event::Wrote(Wrote { choice: self.choice, id, logprob, thinking, text }));
        let why = match flow {
            ControlFlow::Break(()) => Ended::Stopped,
            ControlFlow::Continue(()) if self.output.written >= self.most => Ended::Full,
            ControlFlow::Continue(()) => return Ok(true),
        };
        let (mut thinking, mut text) = (String::new(), String::new());
        self.output.finish(&mut put(&mut thinking, &mut text))?;
        to.tell(Event::Ended { choice: self.choice, why, thinking, text });
        to.left -= 1;
        Ok(false)
    }
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
