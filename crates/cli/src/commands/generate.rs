//! `longreach generate`

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use longreach_engine::{Engine, Sampler, Sampling, Session};

use crate::failure::Failure;
use crate::model::ModelArgs;

/// Generate text that continues a prompt of any length
///
/// Memory does not grow with the prompt if the state of the model has a fixed size (`longreach info` prints it). Save the state after a long prompt to
/// continue from it several times without reading the prompt again. The text streams to standard output; a progress bar and a closing line with token counts,
/// speed and memory go to standard error. The same options and seed give the same text on any number of threads.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach generate --prompt \"A trait is\" -n 100
  longreach generate --model state-spaces/mamba-130m-hf --prompt-file book.txt --save-state book.state
  longreach generate --model state-spaces/mamba-130m-hf --load-state book.state --prompt \"In short,\"
  cat book.txt | longreach generate --temperature 0 -")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Prompt to continue [default: the start-of-text token]
    #[arg(long, short, value_name = "TEXT", conflicts_with_all = ["prompt_file", "stdin"])]
    prompt: Option<String>,
    /// Read the prompt from a file of any length
    #[arg(long, value_name = "FILE", conflicts_with = "stdin")]
    prompt_file: Option<PathBuf>,
    /// Read the prompt from standard input
    #[arg(value_name = "-", value_parser = ["-"])]
    stdin: Option<String>,
    /// Maximum number of tokens to generate [default: 256]
    ///
    /// The model's generation_config.json sets the defaults of this option and of the five options below. If it sets `do_sample` but not the others, those
    /// default to the values of transformers: temperature 1, top-k 50, top-p 1. The defaults shown here apply if it sets neither.
    #[arg(short = 'n', long = "tokens", value_name = "N")]
    tokens: Option<usize>,
    /// Sampling temperature: below 1 is more conservative, above 1 more random, 0 is greedy [default: 0.7]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Sample from the K most probable tokens; 0 means all [default: 0]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Sample from the smallest set of tokens whose probabilities sum to at least P (nucleus sampling) [default: 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Sample from tokens that are at least P times as probable as the most probable one [default: 0.02]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Penalise tokens that occurred before, in the prompt or the output; 1 disables the penalty [default: 1]
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// Seed of the random numbers [default: 0, or continue those of the restored state]
    #[arg(long)]
    seed: Option<u64>,
    /// Continue after an end-of-text token
    #[arg(long)]
    ignore_eos: bool,
    /// Save the session state to a file at the end
    #[arg(long, value_name = "FILE")]
    save_state: Option<PathBuf>,
    /// Restore a saved session state; the prompt, if any, is read after it
    #[arg(long, value_name = "FILE")]
    load_state: Option<PathBuf>,
}

/// Default of `--tokens`.
const TOKENS: usize = 256;

/// Counts and times for the closing line.
#[derive(Default)]
struct Numbers {
    read: u64,
    reading: Duration,
    written: u64,
    writing: Duration,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    // Validate the options before the model is loaded, which can take minutes.
    Sampler::new(args.sampling(Sampling::default()))?;
    if let Some(file) = &args.prompt_file {
        File::open(file).map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
    }
    if let Some(file) = &args.save_state {
        let prompt: Vec<&std::path::Path> = args.prompt_file.iter().map(|file| &**file).collect();
        longreach_models::check_writable(file, &prompt)?;
    }
    let engine = args.model.load()?;
    let mut sampling = args.sampling(Sampling::of_model(&engine.model.generation));
    let (mut session, mut sampler) = match &args.load_state {
        None => (engine.session(), Sampler::new(sampling)?),
        Some(file) => {
            let resumed = engine.resume(file)?;
            sampling.seed = args.seed.unwrap_or(resumed.seed);
            let mut sampler = Sampler::new(sampling)?;
            if args.seed.is_none() {
                sampler.set_position(resumed.position);
            }
            (resumed.session, sampler)
        }
    };
    let mut numbers = Numbers::default();
    let start = Instant::now();
    let before = session.tokens();
    read_prompt(&args, &mut session)?;
    numbers.read = session.tokens() - before;
    numbers.reading = start.elapsed();
    let start = Instant::now();
    numbers.written = write(&args, &engine, &mut session, &mut sampler)?;
    numbers.writing = start.elapsed();
    if let Some(file) = &args.save_state {
        session.save(file, &sampler)?;
    }
    report(&numbers, &session);
    Ok(())
}

impl Args {
    /// The sampling options that were given, with `default` for the others.
    fn sampling(&self, default: Sampling) -> Sampling {
        Sampling {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(default.repetition_penalty),
            seed: self.seed.unwrap_or(default.seed),
        }
    }
}

fn read_prompt(args: &Args, session: &mut Session) -> Result<(), Failure> {
    match (&args.prompt, &args.prompt_file, &args.stdin) {
        (Some(text), ..) => session.read_text(text)?,
        (None, Some(path), _) => {
            let file = File::open(path).map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
            let length = file.metadata().map_or(0, |m| m.len());
            read_long(session, file, &path.display().to_string(), length)?;
        }
        (None, None, Some(_)) => read_long(session, std::io::stdin().lock(), "standard input", 0)?,
        (None, None, None) if args.load_state.is_some() => {}
        (None, None, None) => session.read_start()?,
    }
    Ok(())
}

/// Reads a prompt that may be long, with a progress bar where its length is known.
fn read_long(session: &mut Session, text: impl Read, name: &str, length: u64) -> Result<(), Failure> {
    let bar = if length > 0 { ProgressBar::new(length) } else { ProgressBar::new_spinner() };
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
    let style = if length > 0 {
        "reading {bar:32} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left"
    } else {
        "reading {spinner} {bytes}, {bytes_per_sec}"
    };
    bar.set_style(ProgressStyle::with_template(style).map_err(Failure::new)?);
    let result = session.read_from(text, name, |bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    Ok(result?)
}

/// Streams generated text to standard output and returns the number of tokens.
fn write(args: &Args, engine: &Engine, session: &mut Session, sampler: &mut Sampler) -> Result<u64, Failure> {
    let mut out = std::io::stdout().lock();
    let mut writer = session.writer()?;
    let mut written = 0;
    let mut ended_line = true;
    // A closed pipe (`| head`) ends generation without an error.
    let mut put = |text: &str| match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true).map_err(|e| Failure::new(format!("standard output: {e}"))),
    };
    if std::io::stdout().is_terminal()
        && let Some(prompt) = &args.prompt
    {
        put(prompt)?;
        ended_line = false;
    }
    let most = args.tokens.or(engine.model.generation.max_new_tokens).unwrap_or(TOKENS);
    while written < most as u64 {
        if session.room() == Some(0) {
            eprintln!("note: generation stopped: the model has positions for {} tokens only", session.tokens());
            break;
        }
        let id = session.next_token(sampler)?;
        written += 1;
        if engine.model.description.eos.contains(&id) && !args.ignore_eos {
            break;
        }
        let text = writer.text(id)?;
        if !text.is_empty() {
            ended_line = text.ends_with('\n');
            if !put(&text)? {
                return Ok(written);
            }
        }
    }
    let rest = writer.rest()?;
    put(&rest)?;
    if !ended_line || !rest.is_empty() {
        put("\n")?;
    }
    Ok(written)
}

fn report(numbers: &Numbers, session: &Session) {
    let speed = |n: u64, time: Duration| n as f64 / time.as_secs_f64().max(1e-9);
    let peak = crate::machine::peak().map_or_else(String::new, |bytes| format!(", peak memory {}", megabytes(bytes)));
    eprintln!(
        "read {} tokens at {:.0} tok/s, wrote {} at {:.0} tok/s, state {}{peak}",
        numbers.read,
        speed(numbers.read, numbers.reading),
        numbers.written,
        speed(numbers.written, numbers.writing),
        megabytes(session.state_bytes() as u64),
    );
}

/// Formats a number of bytes in MB or GB.
pub(crate) fn megabytes(bytes: u64) -> String {
    match bytes as f64 / 1e6 {
        mb if mb >= 1000.0 => format!("{:.2} GB", mb / 1e3),
        mb if mb >= 10.0 => format!("{mb:.0} MB"),
        mb => format!("{mb:.2} MB"),
    }
}
