//! Embedding of document collections, and exact search over passages.
//!
//! | module | what it gives |
//! | --- | --- |
//! | [`documents`] | readers for lines, JSON, CSV, Parquet and folders, one document at a time |
//! | [`job`] | embedding in shards on disk, so that interrupted jobs resume |
//! | [`join`](mod@join) | one output from those of several machines |
//! | [`vectors`] | output files: Parquet, Arrow, NumPy, JSON Lines |
//! | [`output`] | checks of an output path before the work begins |
//! | [`index`] | passages and their vectors on disk, as Arrow, and exact search over them |
//! | [`split`] | sentences, and pieces of a text that end at borders of chapters, paragraphs or sentences |
//! | [`rank`] | passages by their similarity to a question, in memory |
//! | [`bm25`] | passages by the words that they share with a question |
//! | [`lexrank`] | sentences by how central they are |
//! | [`matches`](mod@matches) | MaxSim, the late-interaction score of two sets of vectors |

pub mod bm25;
pub mod documents;
mod error;
mod filling;
mod guard;
pub mod index;
mod ipc;
pub mod job;
pub mod join;
pub mod lexrank;
pub mod matches;
pub mod output;
mod piece;
pub mod rank;
pub mod split;
mod table;
pub mod vectors;

pub use error::Error;
pub use guard::is_guarded;
