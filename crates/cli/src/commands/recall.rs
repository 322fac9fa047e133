//! `longreach recall`

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use longreach_train::{Study, StudyEvent};

use crate::failure::Failure;

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
    let bar = ProgressBar::new(1);
    let style = "{bar:32} {pos}/{len} steps, {eta} left, {msg}";
    bar.set_style(ProgressStyle::with_template(style).map_err(Failure::new)?);
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    })?;
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
        if interrupted.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    bar.finish();
    if interrupted.load(Ordering::SeqCst) {
        eprintln!("stopped; the same command goes on with the model that was learning");
    }
    println!("{} results in {}", standings.len(), study.output.join("recall.csv").display());
    Ok(())
}
