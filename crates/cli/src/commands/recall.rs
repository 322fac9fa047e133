//! `longreach recall`

use std::path::PathBuf;

use longreach_train::{Study, StudyEvent};

use crate::failure::Failure;
use crate::interrupt::{self, Interrupt};

/// Compare mechanisms: train small models on associative recall and measure what they remember
///
/// Each model of the TOML file learns the same task with the same budget: a text tells pairs of key and value, then asks for the
/// value of each key. The table and the picture are written anew after each model, and a run that was broken off goes on with the
/// next. See models/recall/recall.toml for an example.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which models learn what
    config: PathBuf,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let study = Study::read(&args.config)?;
    let (bar, interrupt) = (interrupt::steps(1)?, Interrupt::watched()?);
    let standings = study.run(|event| {
        match event {
            StudyEvent::Step { name, state, done, loss } => {
                bar.set_length(done.1 as u64);
                bar.set_position(done.0 as u64);
                bar.set_message(format!("{name}, {state} numbers of state: {loss:.3} nats a question"));
            }
            StudyEvent::Done(s) => {
                let right = 100.0 * s.accuracy;
                let line = format!("{}, {} numbers of state: {right:.1} % right, {:.0} s", s.name, s.state, s.seconds);
                if bar.is_hidden() { eprintln!("{line}") } else { bar.println(line) }
            }
        }
        interrupt.flow()
    })?;
    bar.finish();
    if interrupt.asked() {
        eprintln!("stopped; the same command goes on with the model that was learning");
    }
    println!("{} results in {}", standings.len(), study.output.join("recall.csv").display());
    Ok(())
}
