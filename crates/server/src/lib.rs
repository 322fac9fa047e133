//! OpenAI's API over longreach's engine: completions and chat, embeddings, reranking, and a page to talk to a model.
//!
//! [`Server::bind`] takes the port and answers that it is loading; [`Server::load`] gives it its models; [`Server::run`] serves until the process is asked to
//! end.
//!
//! ```
//! use longreach_engine::Engine;
//! use longreach_server::{Loaded, Model, Server, Settings};
//!
//! let server = Server::bind(Settings { port: 0, ..Settings::default() })?;
//! let engine = Engine::embedded(None)?;
//! server.load(vec![Model { names: vec!["longreach-default".into()], loaded: Loaded::Decoder(engine) }])?;
//! println!("http://{}/v1", server.address());
//! server.stop();
//! # Ok::<(), longreach_server::Error>(())
//! ```

mod answer;
mod asked;
mod body;
mod calls;
mod chat;
mod completions;
mod documents;
mod embeddings;
mod endpoint;
mod events;
mod fields;
mod generate;
mod guard;
mod ids;
mod jobs;
mod listen;
mod messages;
mod metrics;
mod pace;
mod page;
mod pinning;
mod refusal;
mod rerank;
mod schema;
mod served;
mod service;
mod settings;
mod states;
mod structure;
mod tell;
mod tokens;
mod tools;

pub use listen::{Error, Server};
pub use served::{Loaded, Model};
pub use settings::{Log, Settings};
