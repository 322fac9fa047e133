//! Documents in, vectors out, and found again.
//!
//! | module | what it gives |
//! | --- | --- |
//! | [`documents`] | texts from lines, JSON, CSV, Parquet and folders, one at a time |
//! | [`job`] | embedding them, in pieces that are kept when the work is interrupted |
//! | [`vectors`] | the files vectors are written to: Parquet, NumPy, JSON lines |
//! | [`output`] | what is written, checked before the work begins |
//! | [`index`] | passages with their vectors on disk, as Arrow, and exact search in them |
//! | [`matches`](mod@matches) | the sum of best matches between two sets of vectors: late interaction |

pub mod documents;
mod error;
mod guard;
pub mod index;
mod ipc;
pub mod job;
pub mod matches;
pub mod output;
mod piece;
mod table;
pub mod vectors;

pub use error::Error;
pub use guard::is_guarded;
