//! What is asked of the scheduler, and what it tells.

use crate::{CallStyle, Cancel, Ended, Error, Grammar, Logprob, Sampling, Session};

/// A text to read and to go on from.
pub struct Request {
    /// Which of the scheduler's models.
    pub model: usize,
    /// Whose request it is: tenants have equal shares of the machine, and share no states.
    pub tenant: u64,
    /// The tokens to read: at least one, or none behind a state.
    pub prompt: Vec<u32>,
    /// The state that reading begins from.
    pub from: From,
    /// Whether the states of the prompt are sent ([`Event::State`]), so that another request can continue from them.
    pub pin: Pin,
    /// How many answers are written. The prompt is read once.
    pub choices: usize,
    /// The most tokens of an answer; with 0 the prompt is read and nothing is written. The caller has checked that the model has room for them
    /// ([`Engine::longest`](crate::Engine::longest)).
    pub most: usize,
    /// The fewest tokens of an answer: `ends` are not sampled before.
    pub least: usize,
    /// How tokens are sampled. Answer `k` draws from stream `k` of the seed.
    pub sampling: Sampling,
    /// The tokens that end an answer.
    pub ends: Vec<u32>,
    /// The strings that an answer ends before.
    pub stops: Vec<String>,
    /// Whether the string that an answer ended before is part of it.
    pub keeps_stop: bool,
    /// Whether log-probabilities are sent, and of how many of the most probable tokens.
    pub logprobs: Option<usize>,
    /// The same for the tokens of the prompt.
    pub prompt_logprobs: Option<usize>,
    /// Whether the model's thoughts are sent separately from its answer.
    pub thoughts: Thoughts,
    /// What an answer may be. Only tokens that its grammar allows are sampled, behind the model's thoughts, and an answer that has reached the end of the
    /// grammar ends as well. Neither `ends` besides the model's own nor `stops` belong with a grammar of the whole answer, which they would cut.
    pub structure: Structure,
    /// Whether kept states are used and left.
    pub reuse: Reuse,
    /// Divides the kept states of a tenant further: they are found with the same salt only.
    pub salt: String,
    /// Token positions at which messages of the prompt end, where states are worth keeping.
    pub ends_of_messages: Vec<usize>,
    /// Receives the events, on the scheduler's thread, which it must not block. If it returns false, nobody listens any more, and the request is cancelled.
    pub tell: Box<dyn FnMut(Event) -> bool + Send>,
    /// Ends the request within a step.
    pub cancel: Cancel,
}

/// Where the reading of a prompt begins.
#[derive(Clone)]
pub enum From {
    /// At the beginning, or behind what a kept state has read.
    Start,
    /// Behind this session, which has read the first tokens of the prompt in the calls of the model's cut, and ends at a multiple of it or with the prompt.
    /// A kept state that is deeper is used instead. The answer has the bits of one whose prompt is read from its beginning.
    Within(Box<Session>),
    /// Behind this session, whose tokens are not in the prompt. No kept state is used or left, and the prompt is read in calls of [`CHUNK`](crate::CHUNK)
    /// tokens, whatever else runs.
    Behind(Box<Session>),
}

/// Whether the states of a prompt are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// They are not.
    No,
    /// The state at the last multiple of the model's cut is sent, if there is one, and the state at the end.
    Yes,
}

/// Whether a model's thoughts are sent separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thoughts {
    /// It is part of the answer.
    Together,
    /// Text between the tags of the model's chat template is sent as thoughts.
    Apart {
        /// Whether the prompt ends behind the opening tag.
        inside: bool,
    },
}

/// What an answer may be.
#[derive(Clone, Debug, Default)]
pub enum Structure {
    /// Any text.
    #[default]
    None,
    /// A text of a grammar.
    Grammar(Grammar),
    /// Calls of functions ([`Wrote::call`]) and nothing else: a text of a grammar that begins with the tag of a call.
    Calls(Grammar),
    /// Any text, in which functions may be called: behind the beginning of a call, a text of a grammar follows.
    Text {
        /// How a call begins.
        style: CallStyle,
        /// What follows the beginning, which [`CallStyle::Bare`] includes.
        call: Grammar,
        /// Whether the answer goes on behind a call.
        many: bool,
    },
}

/// Whether a request uses states that were kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// It begins from the deepest kept state and leaves states.
    Kept,
    /// It does neither.
    None,
}

/// What happens to a request.
pub enum Event {
    /// It has a place. `cached` of its tokens need not be read, since a kept state has read them.
    Started {
        /// The tokens that are not read.
        cached: usize,
    },
    /// Tokens of the prompt that are behind, those that were cached included.
    Read {
        /// How many.
        tokens: usize,
    },
    /// The state after the tokens of the prompt that [`Session::tokens`] says, of a request with [`Pin::Yes`].
    State(Box<Session>),
    /// The log-probabilities of tokens of the prompt, in order, from the second one on.
    Scored(Vec<Logprob>),
    /// A token was written.
    Wrote(Wrote),
    /// An answer is complete.
    Ended {
        /// Which.
        choice: usize,
        /// Why.
        why: Ended,
        /// The thoughts that had been held back.
        thinking: String,
        /// The text that had been held back.
        text: String,
        /// The text of a call that had been held back.
        call: String,
    },
    /// The request failed; it is the last event.
    Failed(Failure),
    /// All answers are complete; it is the last event.
    Done,
}

/// A token of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Wrote {
    /// Which answer.
    pub choice: usize,
    /// The token. A token that ends the answer is sent as well, and has no text.
    pub id: u32,
    /// Its log-probability, if asked for.
    pub logprob: Option<Logprob>,
    /// The thoughts that are certain now.
    pub thinking: String,
    /// The text that is certain now: whole characters that belong to no stop string.
    pub text: String,
    /// The text of calls, with their tags, as far as it is certain. Text of the same token comes before it.
    pub call: String,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The scheduler is closing.
    #[error("the server is shutting down")]
    Closing,
    /// It was cancelled, by its flag or since nobody listened.
    #[error("cancelled")]
    Cancelled,
    /// The model failed.
    #[error(transparent)]
    Engine(#[from] Error),
    /// A fault in this program.
    #[error("internal error")]
    Panicked,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// As many requests are waiting as may.
    #[error("{waiting} requests are waiting, which is the most: try again later")]
    Full {
        /// How many.
        waiting: usize,
    },
    /// The request has more answers than may run at a time.
    #[error("{choices} answers at a time: at most {most} run")]
    Choices {
        /// How many it has.
        choices: usize,
        /// How many may run.
        most: usize,
    },
    /// The prompt has no token.
    #[error("the prompt is empty")]
    Empty,
    /// The scheduler is closing or has ended.
    #[error("the server is shutting down")]
    Closing,
}
