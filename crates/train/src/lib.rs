//! Training of longreach's models on this machine.
//!
//! A TOML file says everything ([`Config`]); [`Run`] does it: reads the text, trains a tokenizer if there is none, trains
//! the model with AdamW, writes checkpoints that another run takes up, draws the loss, and measures bits per byte on
//! pages that were held out.

mod config;
mod corpus;
mod curve;
mod error;
mod learner;
mod passkey;
mod picture;
mod recall;
mod run;
mod study;
mod tokenizer;

pub use config::{Config, Data, Optimiser, Source, Tokenizer};
pub use corpus::{Corpus, Page};
pub use error::Error;
pub use passkey::{Hidden, Passkey};
pub use recall::Recall;
pub use run::{Event, Outcome, Run};
pub use study::{Entrant, Standing, Study, StudyEvent};
