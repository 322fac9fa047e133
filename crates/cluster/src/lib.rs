//! One long sequence over several processes: each rank holds a part of the tokens, and messages carry what the parts need of
//! each other.
//!
//! | module | contents |
//! | --- | --- |
//! | [`Ranks`] | messages between ranks: [`Alone`], [`Threads`], and `Mpi` with the feature `mpi` |
//! | [`layout`] | which tokens a rank holds: contiguous parts, or the zigzag that balances causal attention |
//! | [`ring`] | softmax attention: keys and values go round |
//! | [`exchange`] | softmax attention under sparse patterns: only the keys that a rank attends to are sent |
//! | [`scan`] | mechanisms with a state: the states of all parts are gathered, or handed from rank to rank |
//! | [`call`] | a mechanism by name, with tensors of the whole text |
//! | [`model`] | the time that a cluster takes, from bytes, bandwidth and arithmetic |
//!
//! Every function takes the rank's own part of the tensors and returns its own part of the results. With one rank it is the
//! mechanism itself.

mod alone;
pub mod call;
mod error;
pub mod exchange;
pub mod layout;
pub mod model;
#[cfg(feature = "mpi")]
mod mpi;
mod part;
mod ranks;
pub mod ring;
pub mod scan;
mod threads;

pub use alone::Alone;
pub use error::Error;
pub use layout::Layout;
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use ranks::{Channel, Ranks, bytes_of, numbers_of};
pub use threads::Threads;
