//! Documents in, vectors out, and found again.
//!
//! | module | what it gives |
//! | --- | --- |
//! | [`documents`] | texts from lines, JSON lines, Parquet and folders, one at a time |
//! | [`job`] | embedding them, in pieces that are kept when the work is interrupted |
//! | [`vectors`] | the files vectors are written to: Parquet, NumPy, JSON lines |
//! | [`index`] | passages with their vectors on disk, as Arrow, and exact search in them |
//! | [`matches`](mod@matches) | the sum of best matches between two sets of vectors: late interaction |

pub mod documents;
mod error;
pub mod index;
pub mod job;
pub mod matches;
mod table;
pub mod vectors;

pub use error::Error;
