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
//!
//! An index of the lines of a file, and a query:
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use longreach_engine::TextEncoder;
//! use longreach_models::Progress;
//! use longreach_search::documents::{Input, Options};
//! use longreach_search::index::{self, Build, Index, Passages};
//! use longreach_search::output::Existing;
//! use longreach_simd::Cx;
//!
//! let folder = tempfile::tempdir()?;
//! let (notes, to) = (folder.path().join("notes.txt"), folder.path().join("index"));
//! std::fs::write(&notes, "the quick river\nbirds on a lake\n")?;
//! let mut encoder = TextEncoder::load("../engine/tests/goldens/st-bert-mean", None, Progress::Hidden)?;
//!
//! let (input, options) = (Input::of(&notes)?, Options::default());
//! let passages = Passages { tokens: 24, overlap: 4, batch: 300 };
//! let what = Build { input: &input, options: &options, passages, similarity: None, existing: Existing::Refuse };
//! index::build(&mut encoder, &what, &to, &mut |_| ControlFlow::Continue(()))?;
//!
//! let cx = Cx::new(1);
//! let index = Index::open(&cx, &to)?;
//! let found = index.with(&encoder)?.ask(&cx, "birds on a lake", 1)?;
//! assert_eq!(found[0].text, "birds on a lake");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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
