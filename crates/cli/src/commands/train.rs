//! `longreach train`

use std::path::PathBuf;

use indicatif::ProgressBar;
use longreach_train::{Config, Event, Run};

use crate::failure::Failure;
use crate::interrupt::{self, Interrupt};

/// Train a model from a TOML file
///
/// Writes checkpoints to the output directory and goes on from the last one if it is run again; at the end the model is in
/// OUTPUT/model, as Hugging Face stores one, and the loss curve in OUTPUT/loss.svg.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to train, on what: see models/default/train.toml for an example with every field explained
    config: PathBuf,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let config = Config::read(&args.config)?;
    let steps = config.optimiser.steps as u64;
    let run = Run::new(config)?;
    let (bar, interrupt) = (interrupt::steps(steps)?, Interrupt::watched()?);
    let mut mean = None::<f32>;
    let outcome = run.train(|event| {
        show(event, &bar, &mut mean);
        interrupt.flow()
    })?;
    bar.finish();
    match outcome {
        Some(outcome) => eprintln!(
            "{}: {:.4} bits per byte on {} bytes held out, after {:.0} s",
            outcome.directory.display(),
            outcome.bits_per_byte,
            outcome.bytes,
            outcome.seconds
        ),
        None => eprintln!("stopped at step {}; the same command goes on from there", bar.position()),
    }
    Ok(())
}

fn show(event: Event, bar: &ProgressBar, mean: &mut Option<f32>) {
    match event {
        Event::Ready { train, held_out, parameters, step } => {
            bar.set_position(step as u64);
            bar.reset_eta();
            let line = format!(
                "{} bytes ({} tokens) to learn from, {} bytes held out, {parameters} parameters, from step {step}",
                train.0, train.1, held_out.0
            );
            if bar.is_hidden() { eprintln!("{line}") } else { bar.println(line) }
        }
        Event::Step { step, loss, speed } => {
            let smooth = mean.map_or(loss, |m| 0.98 * m + 0.02 * loss);
            *mean = Some(smooth);
            bar.set_position(step as u64);
            let line = format!("loss {smooth:.3} nats a token, {speed:.0} tok/s");
            if bar.is_hidden() && step.is_multiple_of(50) {
                eprintln!("step {step}: {line}");
            }
            bar.set_message(line);
        }
        Event::Checkpoint(path) => {
            if bar.is_hidden() {
                eprintln!("checkpoint: {}", path.display());
            }
        }
    }
}
