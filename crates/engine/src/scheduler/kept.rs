//! The seam between the scheduler and what keeps states.

use crate::Session;

/// Keeps the states of texts that were read.
pub trait States: Send {
    /// The session after the longest prefix of `ids` whose state is kept, for a tenant's text of a model; `None` if there is none. It has read at least one
    /// token fewer than `ids` has, or has the logits after the last.
    fn deepest(&mut self, model: usize, tenant: u64, ids: &[u32]) -> Option<Session>;

    /// The next position behind `at` at which a state of this text would be kept, a multiple of the model's cut: reading halts there.
    fn next(&mut self, model: usize, ids: &[u32], ends_of_messages: &[usize], at: usize) -> Option<usize>;

    /// Offers the session after the first tokens of `ids`, as many as [`Session::tokens`] says.
    fn keep(&mut self, model: usize, tenant: u64, ids: &[u32], session: &Session);
}

/// Keeps nothing.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

impl States for Nothing {
    fn deepest(&mut self, _: usize, _: u64, _: &[u32]) -> Option<Session> {
        None
    }

    fn next(&mut self, _: usize, _: &[u32], _: &[usize], _: usize) -> Option<usize> {
        None
    }

    fn keep(&mut self, _: usize, _: u64, _: &[u32], _: &Session) {}
}
