//! Load a model and generate text, in one call and as a stream.
//!
//! `cargo run --release --example generate -- [MODEL]`

use longreach_engine::{Engine, Sampler, Sampling};
use longreach_models::Progress;

fn main() -> Result<(), longreach_engine::Error> {
    let engine = match std::env::args().nth(1) {
        Some(model) => Engine::load(&model, None, Progress::Shown)?,
        None => Engine::embedded(None)?,
    };
    let mut session = engine.session();
    session.read_text("Ownership is")?;

    // Greedy, in one call, on a copy of the session.
    let mut fork = session.clone();
    println!("Ownership is{}", fork.write(40, Sampling::greedy())?);

    // Sampled, token by token: the writer returns the text that each token completes.
    let mut sampler = Sampler::new(Sampling { seed: 1, ..Sampling::default() })?;
    let mut writer = session.writer()?;
    print!("Ownership is");
    for _ in 0..40 {
        let id = session.next_token(&mut sampler)?;
        print!("{}", writer.text(id)?);
    }
    println!("{}", writer.rest()?);
    println!("state: {} bytes after {} tokens", session.state_bytes(), session.tokens());
    Ok(())
}
