//! What turns the events of a request into its answer, whatever the endpoint.

use bytes::Bytes;
use longreach_engine::scheduler::Event;
use serde_json::Value;

use crate::refusal::Refusal;

/// A prompt of a request.
pub(crate) struct Prompt {
    pub(crate) ids: Vec<u32>,
    /// The tokens of the state that it goes on behind and that are not in `ids`.
    pub(crate) before: usize,
    /// Its text, if the answer repeats it.
    pub(crate) echo: Option<String>,
}

impl Prompt {
    /// Its tokens, those of the state that it goes on behind included.
    pub(crate) fn tokens(&self) -> usize {
        self.before + self.ids.len()
    }
}

/// What turns the events of a request into its answer.
pub(crate) trait Tell: Send {
    /// Takes an event of a prompt; returns the chunks that it completes, if the answer is streamed.
    fn tell(&mut self, prompt: usize, event: Event) -> Result<Vec<Value>, Refusal>;
    /// Whether the answer is complete.
    fn is_done(&self) -> bool;
    /// What a stream says while there is nothing else to say.
    fn comment(&self) -> Bytes;
    /// The chunk behind all others.
    fn last_chunk(&self) -> Option<Value>;
    /// The whole answer.
    fn whole(self: Box<Self>) -> Value;
}
