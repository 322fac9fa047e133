//! The server as its clients meet it: real connections to a real server, with small models.

use std::path::Path;

use longreach_engine::TextEncoder;
use longreach_models::Progress;
use longreach_server::{Loaded, Model, Server, Settings};

mod client;
mod connections;
mod described;
mod documents;
mod encoders;
mod hostile;
mod refusals;
mod states;
mod streams;
mod structure;
mod tiny;

/// A server with a decoder of these blocks.
fn serve(blocks: &str, settings: Settings) -> Server {
    let server = Server::bind(Settings { port: 0, ..settings }).expect("bound");
    let decoder =
        Model { names: vec!["tiny/model".into(), "alias".into()], loaded: Loaded::Decoder(tiny::engine(blocks)) };
    server.load(vec![decoder]).expect("loaded");
    server
}

/// An encoder among the goldens of the engine.
fn encoder(name: &str) -> Model {
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/goldens").join(name);
    let loaded = TextEncoder::load(&at, None, Progress::Hidden).expect("an encoder");
    Model { names: vec![name.into()], loaded: Loaded::Encoder(Box::new(loaded)) }
}

const MAMBA: &str = r#""mixer": {"type": "mamba2"}"#;
const WINDOW: &str = r#""mixer": {"type": "window", "window": 40}"#;
