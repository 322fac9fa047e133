//! The jobs longreach does with models: reading texts of any length in constant memory, writing, and keeping states.
//!
//! ```
//! let engine = longreach_engine::Engine::embedded(None)?;
//! let mut session = engine.session();
//! session.read_text("Ownership is")?;
//! let text = session.write(20, longreach_engine::Sampling::greedy())?;
//! assert!(!text.is_empty());
//! # Ok::<(), longreach_engine::Error>(())
//! ```

mod embedded;
mod encode;
mod engine;
mod error;
mod pieces;
mod sampling;
mod session;
mod state;
mod vocabulary;
mod words;

pub use embedded::EMBEDDED;
pub use encode::{
    Answer, BATCH, Entity, Filled, Long, Part, Pipeline, Pooling, Prompt, Scored, Similarity, TextEncoder, batches,
    normalize,
};
pub use engine::Engine;
pub use error::Error;
pub use pieces::Pieces;
pub use sampling::{Sampler, Sampling};
pub use session::{CHUNK, Session, Writer};
pub use state::Resumed;
