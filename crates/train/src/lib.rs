//! Training of longreach's models on this machine.
//!
//! A TOML file says everything ([`Config`]); [`Run`] does it: reads the text, trains a tokenizer if there is none, trains
//! the model with AdamW, writes checkpoints that another run takes up, draws the loss, and measures bits per byte on
//! pages that were held out.

mod config;
mod corpus;
mod curve;
mod entrant;
mod error;
mod learner;
mod passkey;
mod recall;
mod run;
mod tokenizer;

pub use config::{Config, Data, Flow, Group, Optimiser, SegmentsOf, Source, Tokenizer};
pub use corpus::{Corpus, Page};
pub use entrant::Entrant;
pub use error::Error;
pub use passkey::{Asked, Course, Hidden, Passkey, PasskeyEvent, PasskeyStudy, Score};
pub use recall::{Recall, Standing, Study, StudyEvent};
pub use run::{Event, Outcome, Run};
