//! The real client: OpenAI's Python library.

use std::process::Command;

use longreach_server::{Loaded, Model, Server, Settings};

use crate::{MAMBA, encoder, tiny};

/// Pythons that may have the library.
const PYTHONS: [&str; 2] = ["python3", "python"];

#[test]
#[allow(clippy::print_stderr, reason = "says whether the test ran")]
fn the_python_client_works() {
    let named = std::env::var("LONGREACH_TEST_PYTHON").ok();
    let candidates = named.as_deref().into_iter().chain(PYTHONS);
    let has =
        |python: &&str| Command::new(python).args(["-c", "import openai"]).output().is_ok_and(|o| o.status.success());
    let Some(python) = candidates.into_iter().find(has) else {
        eprintln!("NOT RUN: no Python with the package `openai` (LONGREACH_TEST_PYTHON names one)");
        return;
    };
    let server = Server::bind(Settings { port: 0, keys: vec!["secret".into()], ..Settings::default() }).expect("bound");
    let decoder = Model { names: vec!["tiny".into()], loaded: Loaded::Decoder(tiny::engine(MAMBA)) };
    server.load(vec![decoder, encoder("st-bert-mean")]).expect("loaded");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/openai_client.py");
    let base = format!("http://{}/v1", server.address());
    let output = Command::new(python).args([script, &base, "secret"]).output().expect("run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    server.stop();
}
