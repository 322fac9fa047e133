//! Training of models on CPU, and studies that compare mechanisms.
//!
//! A TOML file ([`Config`]) describes a training; [`Run`] executes it. A model of random weights or anyone's checkpoint learns an [`Objective`]: the next
//! token, masked tokens, labels of texts or of words, answers in texts, or vectors of texts. [`Run`] writes checkpoints from which a later run resumes to the
//! same result, evaluates on held-out data, and writes the model in the layout of Hugging Face. [`merge`] merges adapters. [`Study`] and [`PasskeyStudy`] train
//! several small models with the same budget and compare them.
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use longreach_train::{Config, Event, Run};
//!
//! let folder = tempfile::tempdir()?;
//! std::fs::create_dir(folder.path().join("text"))?;
//! for name in ["river.txt", "lake.txt", "sea.txt", "rain.txt"] {
//!     std::fs::write(folder.path().join("text").join(name), format!("The {name} runs to the sea. ").repeat(60))?;
//! }
//! let file = folder.path().join("train.toml");
//! std::fs::write(&file, r#"
//!     output = "out"
//!     [[data.sources]]
//!     path = "text"
//!     [data]
//!     held_out = 0.3
//!     [tokenizer]
//!     vocabulary = 280
//!     [model]
//!     model_type = "mamba2"
//!     hidden_size = 16
//!     num_hidden_layers = 1
//!     num_heads = 2
//!     head_dim = 16
//!     state_size = 8
//!     n_groups = 1
//!     tie_word_embeddings = true
//!     [optimiser]
//!     steps = 3
//!     batch = 2
//!     length = 32
//!     rate = 0.01
//! "#)?;
//! let mut losses = Vec::new();
//! Run::new(Config::read(&file)?)?.train(|event| {
//!     if let Event::Step { loss, .. } = event {
//!         losses.push(loss);
//!     }
//!     ControlFlow::Continue(())
//! })?;
//! assert_eq!(losses.len(), 3);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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
    Report, Schedule, SegmentsOf, Source, Span, TEMPLATES, TextsOf, Tokenizer, template,
};
pub use data::{Corpus, Page};
pub use entrant::Entrant;
pub use error::Error;
pub use model::merge;
pub use passkey::{Asked, Course, Hidden, Passkey, PasskeyEvent, PasskeyStudy, Score};
pub use recall::{Recall, Standing, Study, StudyEvent};
pub use run::{Checked, Event, Outcome, Run};
pub use trial::Trial;
