//! `longreach recall`

use std::path::PathBuf;

use longreach_train::{Study, StudyEvent};

use crate::failure::Failure;
use crate::interrupt::{self, Interrupt};

/// Compare mechanisms: train small models on associative recall and measure their accuracy
///
/// Use it to see how much a mechanism can store in a state of a given size. Each model of the TOML file is trained on the same task with the same budget:
/// a sequence lists key-value pairs, then queries the value of each key. The CSV file, the table and the figure are rewritten after each model. Run the
/// command again after an interruption: models that are done are not trained again.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach recall models/recall/recall.toml
  longreach recall models/recall/recall.toml --threads 8")]
pub(crate) struct Args {
    /// TOML file with the task, the models and the training budget
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
                bar.set_message(format!("{name}, state of {state} numbers: loss {loss:.3} nats per query"));
            }
            StudyEvent::Done(s) => {
                let right = 100.0 * s.accuracy;
                let line =
                    format!("{}, state of {} numbers: accuracy {right:.1} %, {:.0} s", s.name, s.state, s.seconds);
                if bar.is_hidden() { eprintln!("{line}") } else { bar.println(line) }
            }
        }
        interrupt.flow()
    })?;
    bar.finish();
    if interrupt.asked() {
        eprintln!("interrupted; run the same command again to resume with this model");
    }
    println!("{} results in {}", standings.len(), study.output.join("recall.csv").display());
    Ok(())
}
