//! Many texts at a time on one engine: the scheduler that a server stands on.
//!
//! One thread owns the models. It writes all answers under way, a token of each in a step, and reads prompts between the steps: [`Request`]s come from any
//! thread, and report their progress by [`Event`]s.
//!
//! - **Company changes nothing.** The tokens and log-probabilities of a request are, to the bit, those that it has alone.
//! - **Nobody stalls.** Between two tokens of an answer, prompts are read for at most 50 ms or the length of a step, whichever is longer, and a chunk of the
//!   smallest size: a chunk of a prompt is not interrupted.
//! - **Fair.** Tenants have equal shares of admissions and of reading, in tokens (start-time fair queueing). Within a tenant, first come is first served, but
//!   the last chunk of a prompt goes before longer ones.
//! - **Bounded.** At most [`Limits::running`] answers, with states of [`Limits::bytes`], have a place and [`Limits::waiting`] requests wait; more are refused at once.
//! - **Gone is gone.** A request that is cancelled, or that nobody listens to, frees its place within a step.
//! - **Kept to a grammar.** The tokens that a [`Structure`] allows are found on a thread of their own while a step computes. An answer that waits for them sits
//!   out, and the others go on.
//! - **Read once.** A prompt with several answers is read once, and one that begins like a prompt that is being read goes on from its state, as it does from
//!   those that a [`StateCache`] keeps.
//!
//! ```
//! use longreach_engine::scheduler::{Event, Limits, Scheduler};
//! use longreach_engine::{Engine, Sampling};
//!
//! let engine = Engine::embedded(None)?;
//! let prompt = engine.tokenizer()?.encode("Ownership is")?;
//! let scheduler = Scheduler::start(vec![engine], Limits::default());
//! let (tell, told) = std::sync::mpsc::channel();
//! let request = scheduler.request(0, prompt, move |event| tell.send(event).is_ok());
//! scheduler.submit(longreach_engine::scheduler::Request { most: 4, sampling: Sampling::greedy(), ..request })?;
//! let tokens = told.iter().filter(|event| matches!(event, Event::Wrote(_))).count();
//! assert_eq!(tokens, 4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::{Cancel, Engine, Sampling, StateCache};

mod beginning;
mod constraint;
mod fair;
mod masks;
mod parked;
mod plan;
mod reading;
mod request;
mod rows;
mod step;
mod worker;

pub use request::{Event, Failure, From, Pin, Refused, Request, Reuse, Structure, Thoughts, Wrote};

/// How much a scheduler takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most answers that have a place, those whose prompt is being read included. At least 1.
    pub running: usize,
    /// The most requests that wait for a place.
    pub waiting: usize,
    /// The most bytes of the states of answers that have a place. A request waits until those of its answers fit, or nothing else runs; they are its
    /// model's fixed bytes, and for cached keys as many a token as the last prompt of the model left.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { running: 64, waiting: 256, bytes: u64::MAX }
    }
}

/// What a scheduler is doing, and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Answers that have a place.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Steps of writing so far.
    pub steps: u64,
    /// The tokens that they wrote.
    pub written: u64,
    /// Tokens of prompts that were read so far.
    pub read: u64,
}

/// What the engine's thread and the others share.
#[derive(Debug, Default)]
struct Shared {
    running: AtomicUsize,
    waiting: AtomicUsize,
    steps: AtomicU64,
    written: AtomicU64,
    read: AtomicU64,
    closing: AtomicBool,
}

/// What comes to the engine's thread.
enum Command {
    Request(Box<Request>),
    Job(Box<dyn FnOnce() + Send>),
    Close,
    Stop,
}

/// Runs requests on the models of its thread. A clone is the same scheduler; the thread ends when the last is gone and all work is done.
#[derive(Clone)]
pub struct Scheduler {
    commands: Sender<Command>,
    shared: Arc<Shared>,
    limits: Limits,
}

impl Scheduler {
    /// Starts the thread that owns `models`. States are not kept: [`Scheduler::start_with`].
    pub fn start(models: Vec<Engine>, limits: Limits) -> Self {
        Self::start_with(models, limits, None)
    }

    /// As [`Scheduler::start`]; `cache` keeps the states of what was read.
    pub fn start_with(models: Vec<Engine>, limits: Limits, cache: Option<StateCache>) -> Self {
        let limits = Limits { running: limits.running.max(1), ..limits };
        let shared = Arc::new(Shared::default());
        let (commands, received): (Sender<Command>, Receiver<Command>) = channel();
        let theirs = shared.clone();
        let work = move || worker::Worker::new(models, limits, cache, received, theirs).work();
        std::thread::Builder::new().name("engine".into()).spawn(work).expect("a thread");
        Self { commands, shared, limits }
    }

    /// A request with the settings that change nothing: one answer of at most 256 tokens, sampled with [`Sampling::default`], which no token or string ends.
    pub fn request(&self, model: usize, prompt: Vec<u32>, tell: impl FnMut(Event) -> bool + Send + 'static) -> Request {
        Request {
            model,
            tenant: 0,
            prompt,
            choices: 1,
            most: 256,
            least: 0,
            sampling: Sampling::default(),
            ends: Vec::new(),
            stops: Vec::new(),
            keeps_stop: false,
            logprobs: None,
            prompt_logprobs: None,
            thoughts: Thoughts::Together,
            structure: Structure::None,
            from: From::Start,
            pin: Pin::No,
            reuse: Reuse::Kept,
            salt: String::new(),
            ends_of_messages: Vec::new(),
            tell: Box::new(tell),
            cancel: Cancel::default(),
        }
    }

    /// Takes a request, or refuses it at once. Events come in this order: `Started`, `Read` and `Scored`, `Wrote` and `Ended` of each answer, and `Done` or
    /// `Failed` at the end.
    pub fn submit(&self, request: Request) -> Result<(), Refused> {
        if request.prompt.is_empty() && !matches!(request.from, From::Behind(_)) {
            return Err(Refused::Empty);
        }
        if request.choices > self.limits.running {
            return Err(Refused::Choices { choices: request.choices, most: self.limits.running });
        }
        if self.shared.closing.load(Ordering::Acquire) {
            return Err(Refused::Closing);
        }
        // A request is counted before it is sent, so that no more are ever on the way.
        let room = |waiting: usize| (waiting < self.limits.waiting.max(1)).then_some(waiting + 1);
        if let Err(waiting) = self.shared.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, room) {
            return Err(Refused::Full { waiting });
        }
        self.commands.send(Command::Request(Box::new(request))).map_err(|_| Refused::Closing)
    }

    /// Does `job` on the engine's thread, between two steps: work of other models, such as encoders, which would otherwise compete for the same cores. It
    /// should take no longer than a chunk of a prompt. It is not done if the scheduler has ended.
    pub fn job(&self, job: impl FnOnce() + Send + 'static) {
        // An ended thread drops its receiver: the job is dropped, and with it whatever waits for its result.
        self.commands.send(Command::Job(Box::new(job))).ok();
    }

    /// What it is doing.
    pub fn numbers(&self) -> Numbers {
        let Shared { running, waiting, steps, written, read, .. } = &*self.shared;
        Numbers {
            running: running.load(Ordering::Relaxed),
            waiting: waiting.load(Ordering::Relaxed),
            steps: steps.load(Ordering::Relaxed),
            written: written.load(Ordering::Relaxed),
            read: read.load(Ordering::Relaxed),
        }
    }

    /// Takes no more requests, and fails those that wait with [`Failure::Closing`]. Those that have a place go on.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.commands.send(Command::Close).ok();
    }

    /// As [`Scheduler::close`], and ends those that have a place as well.
    pub fn stop(&self) {
        self.close();
        self.commands.send(Command::Stop).ok();
    }
}
