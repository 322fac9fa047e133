//! `longreach passkey`

use std::io::Write;
use std::path::PathBuf;

use longreach_models::write_atomically;
use longreach_train::{Passkey, PasskeyEvent, PasskeyStudy};

use crate::failure::Failure;
use crate::interrupt::{self, Interrupt};

mod picture;
mod probe;
mod task;

/// Test retrieval from long texts: hide facts in a text and ask a model for them
///
/// Use it to measure at which lengths and depths a model still retrieves facts. `probe` tests any language model with the tasks of RULER; `text` writes a single
/// test with a number; `study` trains several models to find a number and tests all of them.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach passkey probe --model Qwen/Qwen3-0.6B --lengths 1k..8k --plot probe.svg
  longreach passkey text --length 1000000 --depth 0.2 --out haystack.txt
  longreach generate --model models/passkey/infini-delta --prompt-file haystack.txt -n 5 --temperature 0
  longreach passkey study models/passkey/passkey.toml")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Probe(probe::Args),
    Text(TextArgs),
    Study(StudyArgs),
}

/// Write a text that states a number at one place and asks for it at the end
///
/// The text goes to --out or standard output, the number to standard error. Give the text to `longreach generate` and compare.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach passkey text --length 20000 --depth 0.4 --seed 2 --out haystack.txt
  longreach passkey text --length 20000 | longreach generate --model models/passkey/hmt -n 5 --temperature 0 -")]
struct TextArgs {
    /// Length of the text and its answer, in bytes
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    length: usize,
    /// Position of the number in the text: 0 is the beginning, 1 is just before the question
    #[arg(long, value_name = "PART", default_value_t = 0.5)]
    depth: f64,
    /// Number of digits
    #[arg(long, value_name = "N", default_value_t = 5)]
    digits: usize,
    /// Seed that the number is drawn from
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Output file [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Train small models on short texts and test them on long ones
///
/// Each model of the TOML file is trained with the same budget and then tested on texts of every length with the number at every depth. Models, tables and
/// figures are written as soon as they are ready. Run the command again after an interruption: finished models and tests are not repeated.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach passkey study models/passkey/passkey.toml
  longreach passkey study models/passkey/passkey.toml --only hmt")]
struct StudyArgs {
    /// TOML file with the task, the models and the training budget
    config: PathBuf,
    /// Run only these models; several processes may run different models at the same time
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    match args.what {
        What::Probe(args) => probe::run(args),
        What::Text(args) => text(&args),
        What::Study(args) => study(&args),
    }
}

fn text(args: &TextArgs) -> Result<(), Failure> {
    let task = Passkey { length: args.length, digits: args.digits };
    task.check().map_err(|message| Failure::new(message.replace("`task.", "`--")))?;
    if !(0.0..=1.0).contains(&args.depth) {
        return Err(Failure::new(format!("`--depth`: want 0 to 1, found {}", args.depth)));
    }
    let hidden = task.text(args.depth, args.seed);
    let bytes = |ids: &[u32]| ids.iter().map(|id| *id as u8).collect::<Vec<u8>>();
    let text = bytes(&hidden.prompt);
    match &args.out {
        Some(file) => write_atomically(file, |out| out.write_all(&text))?,
        None => std::io::stdout().lock().write_all(&text).map_err(Failure::new)?,
    }
    eprintln!(
        "wrote {} bytes; at byte {} is the number {}",
        text.len(),
        hidden.at,
        String::from_utf8_lossy(&bytes(&hidden.answer))
    );
    Ok(())
}

fn study(args: &StudyArgs) -> Result<(), Failure> {
    let study = PasskeyStudy::read(&args.config)?;
    let (bar, interrupt) = (interrupt::steps(1)?, Interrupt::watched()?);
    let mut mean = None::<f32>;
    study.run(&args.only, |event| {
        match event {
            PasskeyEvent::Step { name, done, length, loss } => {
                let smooth = mean.filter(|_| done.0 > 1).map_or(loss, |m| 0.98 * m + 0.02 * loss);
                mean = Some(smooth);
                bar.set_length(done.1 as u64);
                bar.set_position(done.0 as u64);
                let line = format!("{name}: loss {smooth:.3} nats per digit on texts of {length} bytes");
                if bar.is_hidden() && done.0.is_multiple_of(50) {
                    eprintln!("step {}: {line}", done.0);
                }
                bar.set_message(line);
            }
            PasskeyEvent::Asked { name, score } => {
                let line = format!(
                    "{name}: {} of {} numbers retrieved from {} bytes at depth {:.2}, {} digits, {:.1} s per text",
                    score.right, score.texts, score.length, score.depth, score.digits, score.seconds
                );
                if bar.is_hidden() { eprintln!("{line}") } else { bar.println(line) }
            }
        }
        interrupt.flow()
    })?;
    bar.finish_and_clear();
    if interrupt.asked() {
        eprintln!("interrupted; run the same command again to resume");
    }
    println!("tables and figures are in {}", study.output.display());
    Ok(())
}
