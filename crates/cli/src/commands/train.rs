//! `longreach train`

use std::path::PathBuf;

use indicatif::ProgressBar;
use longreach_train::{Config, Event, Run};

use crate::failure::Failure;
use crate::interrupt::{self, Interrupt};

/// Train a language model as described by a TOML file
///
/// The file names the data, the tokenizer, the model and the optimiser. Checkpoints go to the output directory; run the command again to resume from the
/// last one. The trained model is written to OUTPUT/model in the Hugging Face layout, and the loss curve to OUTPUT/loss.svg.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach train train.toml
  RUST_DOC=$(rustc --print sysroot)/share/doc/rust/html longreach train models/default/train.toml

models/default/train.toml explains every field; it trains the built-in model on the documentation of Rust.")]
pub(crate) struct Args {
    /// TOML file with the data, tokenizer, model and optimiser
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
            "{}: {:.4} bits per byte on {} held-out bytes, after {:.0} s",
            outcome.directory.display(),
            outcome.bits_per_byte,
            outcome.bytes,
            outcome.seconds
        ),
        None => eprintln!("interrupted at step {}; run the same command again to resume", bar.position()),
    }
    Ok(())
}

fn show(event: Event, bar: &ProgressBar, mean: &mut Option<f32>) {
    match event {
        Event::Ready { train, held_out, parameters, step } => {
            bar.set_position(step as u64);
            bar.reset_eta();
            let line = format!(
                "{} training bytes ({} tokens), {} held-out bytes, {parameters} parameters, starting at step {step}",
                train.0, train.1, held_out.0
            );
            if bar.is_hidden() { eprintln!("{line}") } else { bar.println(line) }
        }
        Event::Step { step, loss, speed } => {
            let smooth = mean.map_or(loss, |m| 0.98 * m + 0.02 * loss);
            *mean = Some(smooth);
            bar.set_position(step as u64);
            let line = format!("loss {smooth:.3} nats per token, {speed:.0} tok/s");
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
