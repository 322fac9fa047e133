//! Training of models on CPU, and studies that compare mechanisms.
//!
//! A TOML file ([`Config`]) describes a training; [`Run`] executes it. A model of random weights or anyone's checkpoint learns an [`Objective`]: the next
//! token, masked tokens, labels of texts or of words, answers in texts, vectors of texts, or a column of a table. [`Run`] writes checkpoints from which a later run resumes to the
//! same result, evaluates on held-out data, and writes the model in the layout of Hugging Face. [`merge`] merges adapters. [`Study`] and [`PasskeyStudy`] train
//! several small models with the same budget and compare them.

mod config;
mod data;
mod entrant;
mod error;
mod learner;
mod metric;
mod model;
mod objective;
mod optimiser;
mod passkey;
mod recall;
mod report;
mod run;
mod texts;
mod tokenizer;
mod trial;

pub use config::{
    ClipBy, Config, Data, Evaluate, Flow, Format, Group, HeldOut, Kind, Lora, LossOn, Objective, Optimiser, Packing,
    Report, Schedule, SegmentsOf, Source, Span, TEMPLATES, TableOf, TextsOf, Tokenizer, template,
};
pub use data::{Corpus, Page};
pub use entrant::Entrant;
pub use error::Error;
pub use model::merge;
pub use passkey::{Asked, Course, Hidden, Passkey, PasskeyEvent, PasskeyStudy, Score};
pub use recall::{Recall, Standing, Study, StudyEvent};
pub use run::{Checked, Event, Outcome, Run};
pub use trial::Trial;
