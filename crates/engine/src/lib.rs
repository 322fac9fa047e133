//! Running models on text: generation with a state of fixed size, saved and restored sessions, and embeddings and task heads of encoders.
//!
//! [`Engine`] loads a language model, [`Session`] reads and generates text with it, and [`TextEncoder`] embeds, classifies and answers with an encoder.
//!
//! ```
//! let engine = longreach_engine::Engine::embedded(None)?;
//! let mut session = engine.session();
//! session.read_text("Ownership is")?;
//! let text = session.write(20, longreach_engine::Sampling::greedy())?;
//! assert!(!text.is_empty());
//! # Ok::<(), longreach_engine::Error>(())
//! ```

mod agreement;
mod cache;
mod chat;
mod conversation;
mod embedded;
mod encode;
mod engine;
mod error;
mod generation;
mod grammar;
mod logprobs;
mod output;
mod pieces;
mod pipeline;
mod read_once;
mod sampling;
pub mod scheduler;
mod score;
mod session;
mod speculation;
mod state;
mod stop;
mod stream;
mod thinking;
mod tokenizer;
mod vocabulary;
mod windows;
mod words;
mod world;
mod writer;

pub use agreement::{Agreement, Perplexity, agreement, perplexity};
pub use cache::{CacheConfig, CacheStats, Found, Reused, StateCache, Texts, Tier};
pub use chat::{ChatTemplate, Message};
pub use conversation::{Conversation, Reply};
pub use embedded::EMBEDDED;
pub use encode::{
    Answer, BATCH, Entity, Filled, Long, Part, Pipeline, Pooling, Prompt, Scored, Similarity, TextEncoder, batches,
    normalize,
};
pub use engine::{Engine, Loaded};
pub use error::Error;
pub use generation::Ended;
pub use grammar::{CallStyle, Calls, Form, Function, Grammar, LONGEST_GRAMMAR};
pub use logprobs::Logprob;
pub use pieces::Pieces;
pub use pipeline::Evaluated;
pub use read_once::Start;
pub use sampling::{History, Sampler, Sampling};
pub use score::{Bucket, Score, Windows};
pub use session::{CHUNK, Cancel, Session};
pub use speculation::Speculation;
pub use state::Resumed;
pub use stop::Stops;
pub use thinking::Piece;
pub use tokenizer::{Around, Tokenizer};
pub use vocabulary::gguf::write_tokenizer;
pub use writer::Writer;
