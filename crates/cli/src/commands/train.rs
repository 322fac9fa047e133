//! `longreach train`

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use longreach_train::{Checked, Config, Event, Run, TEMPLATES, template};

use crate::failure::Failure;
use crate::interrupt::{self, Interrupt};

mod dashboard;

use dashboard::Dashboard;

/// Train or fine-tune a model as described by a TOML file
///
/// The file names the data, the objective, the model to start from (or the fields of a new one) and the optimiser. Checkpoints go to the output directory;
/// run the command again to resume from the last one. The model is written to OUTPUT/model in the Hugging Face layout, the best one to OUTPUT/best, and
/// metrics to OUTPUT/metrics.csv, metrics.jsonl and report.html.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach train --template texts > train.toml
  longreach train train.toml --check
  longreach train train.toml --set optimiser.rate=1e-4
  RUST_DOC=$(rustc --print sysroot)/share/doc/rust/html longreach train models/default/train.toml

docs/training.md has an example for each objective.")]
pub(crate) struct Args {
    /// TOML file with the data, the model, the objective and the optimiser
    #[arg(required_unless_present = "template")]
    config: Option<PathBuf>,
    /// Set a field of the file, such as optimiser.rate=1e-4; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Read everything, run one step, print sizes and times, and stop
    #[arg(long)]
    check: bool,
    /// Print a commented file for an objective: causal, masked, texts, tokens, spans or contrastive
    #[arg(long, value_name = "OBJECTIVE", conflicts_with_all = ["config", "set", "check"])]
    template: Option<String>,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    if let Some(name) = &args.template {
        let text = template(name);
        let text =
            text.ok_or_else(|| Failure::new(format!("--template {name}: want one of {}", TEMPLATES.join(", "))))?;
        print!("{text}");
        return Ok(());
    }
    let Some(file) = &args.config else { return Ok(()) };
    let config = Config::read_with(file, &args.set)?;
    let run = Run::new(config)?;
    if args.check {
        print(&run.check()?);
        return Ok(());
    }
    let (bar, interrupt) = (interrupt::steps(run.steps() as u64)?, Interrupt::watched()?);
    // More than a line, where there is a terminal.
    let style = "{bar:32} {pos}/{len} steps, {elapsed} since the start, {eta} left\n{msg}";
    bar.set_style(ProgressStyle::with_template(style)?);
    let mut shown = Dashboard::default();
    let outcome = run.train(|event| {
        show(event, &bar, &mut shown);
        interrupt.flow()
    })?;
    let Some(outcome) = outcome else {
        bar.finish();
        eprintln!("interrupted at step {}; run the same command again to resume", bar.position());
        return Ok(());
    };
    bar.finish_and_clear();
    let unit = if outcome.metric("bits_per_byte").is_some() { "bytes" } else { "rows" };
    let directory = outcome.directory.display();
    let seconds = outcome.seconds;
    match outcome.metric("bits_per_byte") {
        _ if outcome.metrics.is_empty() => eprintln!("{directory}: after {seconds:.0} s"),
        Some(bits) => {
            eprintln!(
                "{directory}: {bits:.4} bits per byte on {} held-out {unit}, after {seconds:.0} s",
                outcome.held_out
            );
        }
        None => {
            let metrics = listed(&outcome.metrics);
            eprintln!("{directory}: {metrics} on {} held-out {unit}, after {seconds:.0} s", outcome.held_out);
        }
    }
    if let Some(best) = &outcome.best {
        eprintln!("the best model is in {}", best.display());
    }
    Ok(())
}

fn listed(metrics: &[(String, f64)]) -> String {
    metrics.iter().map(|(name, value)| format!("{name} {value:.4}")).collect::<Vec<_>>().join(", ")
}

fn show(event: Event, bar: &ProgressBar, shown: &mut Dashboard) {
    let say = |line: String| if bar.is_hidden() { eprintln!("{line}") } else { bar.println(line) };
    match event {
        Event::Ready { train, held_out, parameters, learning, step, .. } => {
            bar.set_position(step as u64);
            bar.reset_eta();
            let trained = if learning == parameters { String::new() } else { format!(" ({learning} trained)") };
            say(format!(
                "{} training bytes or rows ({} tokens), {} held out, {parameters} parameters{trained}, starting at step {step}",
                train.0, train.1, held_out.0
            ));
        }
        Event::Note(note) => say(note),
        Event::Step { step, loss, rate, norm, speed } => {
            let smooth = shown.add(loss);
            bar.set_position(step as u64);
            if !bar.is_hidden() {
                bar.set_message(shown.lines(rate, norm, speed));
            } else if step.is_multiple_of(50) {
                let held_out = shown.held_out();
                eprintln!("step {step}: loss {smooth:.3}{held_out}, rate {rate:.1e}, norm {norm:.2}, {speed:.0} tok/s");
            }
        }
        Event::Evaluated { step, metrics, best } => {
            shown.evaluated(step, &metrics, best);
            say(format!("step {step}: held out {}{}", listed(&metrics), if best { " (best)" } else { "" }));
        }
        Event::Sample(text) => say(format!("sample: {text}")),
        Event::Stopped { step, best } => {
            say(format!("stopped at step {step}: the evaluations have not improved since step {best}"));
        }
        Event::Checkpoint(path) if bar.is_hidden() => eprintln!("checkpoint: {}", path.display()),
        _ => {}
    }
}

/// Prints what a trial step says.
fn print(checked: &Checked) {
    let Checked { train, held_out, parameters, learning, steps, tokens, loss, seconds, labels, notes } = checked;
    println!("training data    {} bytes or rows, {} tokens", train.0, train.1);
    println!("held-out data    {} bytes or rows, {} tokens", held_out.0, held_out.1);
    println!("parameters       {parameters}, of which {learning} are trained");
    if !labels.is_empty() {
        println!("labels           {}", labels.join(", "));
    }
    println!(
        "one step         loss {loss:.4}, {tokens} tokens in {seconds:.2} s, {:.0} tok/s",
        *tokens as f64 / seconds.max(1e-9)
    );
    let all = (seconds * *steps as f64).round() as u64;
    println!("{steps} steps        about {} h {} min {} s, without evaluations", all / 3600, all / 60 % 60, all % 60);
    notes.iter().for_each(|note| println!("note             {note}"));
}
