//! Errors of messages and of what is computed with them.

use std::time::Duration;

/// Why ranks could not work together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An invalid argument of a mechanism.
    #[error(transparent)]
    Attention(#[from] longreach_attention::Error),
    /// Another rank ended before it sent what this one waits for.
    #[error("rank {rank} has ended, and rank {waiting} waits for it")]
    Lost {
        /// The rank that ended.
        rank: usize,
        /// The rank that waits.
        waiting: usize,
    },
    /// Nothing came within the time limit.
    #[error("rank {waiting} has waited {} s for rank {rank}", after.as_secs())]
    Late {
        /// The rank that sends nothing.
        rank: usize,
        /// The rank that waits.
        waiting: usize,
        /// The time limit.
        after: Duration,
    },
    /// A rank that does not exist.
    #[error("there is no rank {rank}: there are {size}")]
    NoRank {
        /// The number that was asked for.
        rank: usize,
        /// The number of ranks.
        size: usize,
    },
    /// A message that is not what the receiver expects, such as one of another version of the program.
    #[error("the message of rank {from} is {found}, want {want}")]
    Message {
        /// The sender.
        from: usize,
        /// What was received.
        found: String,
        /// What was expected.
        want: String,
    },
    /// Ranks that do not have the same.
    #[error("{what} differs between ranks: rank 0 has {first}, rank {rank} has {other}")]
    Differs {
        /// What should be the same.
        what: String,
        /// What rank 0 has.
        first: String,
        /// A rank that has something else.
        rank: usize,
        /// What it has.
        other: String,
    },
    /// A mechanism that is not computed over ranks.
    #[error("{name} is not computed over ranks: {message}")]
    Unsupported {
        /// The mechanism.
        name: String,
        /// Why, and what can be done.
        message: String,
    },
    /// The library that passes messages failed.
    #[error("messages between ranks: {0}")]
    Transport(String),
}
