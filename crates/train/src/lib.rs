//! Training of language models on CPU, and studies that compare mechanisms.
//!
//! A TOML file ([`Config`]) describes a training; [`Run`] executes it. It reads the text, trains a tokenizer unless one is given, trains the model with AdamW,
//! writes checkpoints from which a later run resumes, plots the loss, and measures bits per byte on held-out pages. [`Study`] and [`PasskeyStudy`] train several
//! small models with the same budget and compare them.

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
