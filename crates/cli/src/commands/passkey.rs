//! `longreach passkey`

use std::io::Write;
use std::path::PathBuf;

use longreach_models::write_atomically;
use longreach_train::{Passkey, PasskeyEvent, PasskeyStudy};

use crate::failure::Failure;
use crate::interrupt::{self, Interrupt};

/// Hide a number in a long text, and see which models find it
///
/// Examples:
///   longreach passkey text --length 1000000 --depth 0.2 --out haystack.txt
///   longreach generate --model models/passkey/infini-delta --prompt-file haystack.txt -n 5 --temperature 0
///   longreach passkey study models/passkey/passkey.toml
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Text(TextArgs),
    Study(StudyArgs),
}

/// Write a text that tells a number once, early or late, and asks for it at its end
///
/// The number goes to stderr.
#[derive(clap::Args)]
struct TextArgs {
    /// Bytes of the text and its answer
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    length: usize,
    /// Where the number stands: 0 is the beginning, 1 just before the question
    #[arg(long, value_name = "PART", default_value_t = 0.5)]
    depth: f64,
    /// Digits of the number
    #[arg(long, value_name = "N", default_value_t = 5)]
    digits: usize,
    /// Which number
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The file [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Train small models on short texts and ask them about long ones
///
/// Each model of the TOML file learns with the same budget and is then asked about texts of each length with the number at each depth. Models,
/// tables and pictures are written as they are made, and a run that was broken off goes on with what was not done.
/// See models/passkey/passkey.toml for an example.
#[derive(clap::Args)]
struct StudyArgs {
    /// Which models learn what
    config: PathBuf,
    /// Only these models; several runs may do one each at the same time
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    match args.what {
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
        "{} bytes, at byte {} the number {}",
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
                let line = format!("{name}: {smooth:.3} nats a digit, texts of {length} bytes");
                if bar.is_hidden() && done.0.is_multiple_of(50) {
                    eprintln!("step {}: {line}", done.0);
                }
                bar.set_message(line);
            }
            PasskeyEvent::Asked { name, score } => {
                let line = format!(
                    "{name}: {} of {} numbers in {} bytes at depth {:.2}, {} digits, {:.1} s a text",
                    score.right, score.texts, score.length, score.depth, score.digits, score.seconds
                );
                if bar.is_hidden() { eprintln!("{line}") } else { bar.println(line) }
            }
        }
        interrupt.flow()
    })?;
    bar.finish_and_clear();
    if interrupt.asked() {
        eprintln!("stopped; the same command goes on with what was under way");
    }
    println!("tables and pictures are in {}", study.output.display());
    Ok(())
}
