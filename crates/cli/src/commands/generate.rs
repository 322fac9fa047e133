//! `longreach generate`

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use longreach_cluster::Ranks;
use longreach_engine::{Engine, Pieces, Sampler, Session, Speculation, Stops};

use crate::failure::Failure;
use crate::kept::{CacheArgs, Kept};
use crate::model::{ContextArgs, ModelArgs};
use crate::progress;
use crate::ranks;
use crate::sampling::SamplingArgs;
use crate::speculation::{self, SpeculationArgs};

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
  longreach generate --model Qwen/Qwen3-4B --draft Qwen/Qwen3-0.6B --prompt-file main.rs --stop \"fn \"
  longreach generate --prompt-file book.txt --cache-dir ~/.cache/longreach/states
  cat book.txt | longreach generate --temperature 0 -")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    context: ContextArgs,
    /// Prompt to continue [default: the start-of-text token]
    #[arg(long, short, value_name = "TEXT", conflicts_with_all = ["prompt_file", "stdin"])]
    prompt: Option<String>,
    /// Read the prompt from a file of any length
    #[arg(long, value_name = "FILE", conflicts_with = "stdin")]
    prompt_file: Option<PathBuf>,
    /// Read the prompt from standard input
    #[arg(value_name = "-", value_parser = ["-"])]
    stdin: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    speculation: SpeculationArgs,
    /// Continue after an end-of-text token
    #[arg(long)]
    ignore_eos: bool,
    /// Save the session state to a file at the end
    #[arg(long, value_name = "FILE")]
    save_state: Option<PathBuf>,
    /// Restore a saved session state; the prompt, if any, is read after it
    #[arg(long, value_name = "FILE", conflicts_with = "cache_dir")]
    load_state: Option<PathBuf>,
    #[command(flatten)]
    cache: CacheArgs,
}

/// Counts and times for the closing line.
#[derive(Default)]
struct Numbers {
    read: u64,
    /// Tokens of the prompt that were not read, since a kept state had read them.
    kept: Option<u64>,
    reading: Duration,
    written: u64,
    writing: Duration,
    /// The number of ranks that have read the prompt, and the bytes that they have sent.
    ranks: Option<(usize, u64)>,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    // Validate the options before the model is loaded, which can take minutes.
    args.sampling.check()?;
    // The prompt and the files are those of rank 0.
    let leads = ranks::leads();
    if let Some(file) = args.prompt_file.as_ref().filter(|_| leads) {
        File::open(file).map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
    }
    if let Some(file) = args.save_state.as_ref().filter(|_| leads) {
        let prompt: Vec<&std::path::Path> = args.prompt_file.iter().map(|file| &**file).collect();
        longreach_models::check_writable(file, &prompt)?;
    }
    let engine = args.model.load_for(&args.context)?;
    let mut numbers = Numbers::default();
    if let Some(ranks) = ranks::job() {
        together(&args, &engine, ranks)?;
        if !ranks::leads() {
            engine.follow(ranks)?;
            return ranks::sent(ranks).map(drop);
        }
    }
    let mut sampling = args.sampling.options(&engine)?;
    let mut speculation = args.speculation.speculation(&engine)?;
    let (mut session, mut sampler) = match &args.load_state {
        None => (engine.session(), Sampler::new(sampling)?),
        Some(file) => {
            let resumed = engine.resume(file)?;
            sampling.seed = args.sampling.seed.unwrap_or(resumed.seed);
            let mut sampler = Sampler::new(sampling)?;
            if args.sampling.seed.is_none() {
                sampler.set_position(resumed.position);
            }
            (resumed.session, sampler)
        }
    };
    if speculation.is_on() {
        session.keep_text();
    }
    let start = Instant::now();
    let before = session.tokens();
    let kept = args.cache.open(&engine, 0)?;
    match &kept {
        Some(kept) => numbers.kept = Some(read_kept(&args, &mut session, kept, &engine)?),
        None => read_prompt(&args, &mut session)?,
    }
    if let Some(ranks) = ranks::job() {
        engine.dismiss(ranks)?;
        numbers.ranks = Some((ranks.size(), ranks::sent(ranks)?));
    }
    speculation.prepare(&session)?;
    numbers.read = session.tokens() - before - numbers.kept.unwrap_or(0);
    numbers.reading = start.elapsed();
    let start = Instant::now();
    numbers.written = write(&args, &engine, &mut session, &mut sampler, &mut speculation)?;
    numbers.writing = start.elapsed();
    if let Some(file) = &args.save_state {
        session.save(file, &sampler)?;
    }
    report(&numbers, &session, &speculation);
    if let Some(kept) = kept {
        kept.close();
    }
    Ok(())
}

/// Checks that all ranks have the same model. An error for what one process does by itself.
fn together(args: &Args, engine: &Engine, ranks: &dyn Ranks) -> Result<(), Failure> {
    if args.cache.is_on() {
        return Err(Failure::new("--cache-dir: kept states are read by one process: leave it out, or use --ranks off"));
    }
    ranks.agree("the model", &engine.fingerprint())?;
    Ok(ranks.agree("the instruction set", &engine.isa())?)
}

fn read_prompt(args: &Args, session: &mut Session) -> Result<(), Failure> {
    if let Some(ranks) = ranks::job() {
        return read_prompt_over(args, session, ranks);
    }
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

/// Reads the prompt with all ranks.
fn read_prompt_over(args: &Args, session: &mut Session, ranks: &dyn Ranks) -> Result<(), Failure> {
    let mut read = |text: &mut dyn Read, name: &str| {
        let bar = progress::things("reading", "tokens", 0)?;
        let result = session.read_from_over(text, name, ranks, |tokens| bar.set_position(tokens));
        bar.finish_and_clear();
        Ok(result?)
    };
    match (&args.prompt, &args.prompt_file, &args.stdin) {
        (Some(text), ..) => read(&mut text.as_bytes(), "the prompt"),
        (None, Some(path), _) => {
            let mut file = File::open(path).map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
            read(&mut file, &path.display().to_string())
        }
        (None, None, Some(_)) => read(&mut std::io::stdin().lock(), "standard input"),
        (None, None, None) if args.load_state.is_some() => Ok(()),
        (None, None, None) => Ok(session.read_start()?),
    }
}

/// Reads the prompt behind the deepest state that is kept of it, and returns how many of its tokens were not read.
fn read_kept(args: &Args, session: &mut Session, kept: &Kept, engine: &Engine) -> Result<u64, Failure> {
    let tokens = |text: &mut dyn Read, name: &str| {
        let (mut pieces, mut ids) = (Pieces::new(engine.tokenizer()?, text, name), Vec::new());
        while let Some(piece) = pieces.next_piece()? {
            ids.extend(piece);
        }
        Ok::<_, Failure>(ids)
    };
    let ids = match (&args.prompt, &args.prompt_file, &args.stdin) {
        (Some(text), ..) => tokens(&mut text.as_bytes(), "the prompt")?,
        (None, Some(path), _) => {
            let mut file = File::open(path).map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
            tokens(&mut file, &path.display().to_string())?
        }
        (None, None, Some(_)) => tokens(&mut std::io::stdin().lock(), "standard input")?,
        (None, None, None) => {
            session.read_start()?;
            return Ok(0);
        }
    };
    let bar = progress::things("reading", "tokens", ids.len() as u64)?;
    let result = kept.texts.read(&ids, &[], |done| bar.set_position(done));
    bar.finish_and_clear();
    let (mut found, reused) = result?;
    found.keep_text_of(&ids);
    *session = found;
    Ok(reused.tokens as u64)
}

/// Reads a prompt that may be long, with a progress bar where its length is known.
fn read_long(session: &mut Session, text: impl Read, name: &str, length: u64) -> Result<(), Failure> {
    let bar = progress::bytes("reading", length)?;
    let result = session.read_from(text, name, |bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    Ok(result?)
}

/// Streams generated text to standard output and returns the number of tokens.
fn write(
    args: &Args,
    engine: &Engine,
    session: &mut Session,
    sampler: &mut Sampler,
    speculation: &mut Speculation,
) -> Result<u64, Failure> {
    let mut out = std::io::stdout().lock();
    let mut writer = session.writer()?;
    let mut stops = Stops::new(args.sampling.stops(engine));
    let (mut written, mut open) = (0, true);
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
    let most = args.sampling.most(engine);
    session.generate(sampler, most, speculation, |id| {
        written += 1;
        if engine.model.description.eos.contains(&id) && !args.ignore_eos {
            return Ok(ControlFlow::Break(()));
        }
        let text = stops.push(&writer.text(id)?);
        if !text.is_empty() {
            ended_line = text.ends_with('\n');
            open = put(&text)?;
        }
        Ok::<_, Failure>(if open && !stops.found() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    if !open {
        return Ok(written);
    }
    if session.room() == Some(0) && written < most as u64 {
        let what = match engine.model.decoder.longest() {
            Some(_) => "has positions for",
            None => "was trained for",
        };
        let hint = if what.starts_with("has") { "" } else { ": --window goes on with a window of them" };
        eprintln!("note: generation stopped: the model {what} {} tokens only{hint}", session.tokens());
    }
    let rest = if stops.found() { String::new() } else { stops.push(&writer.rest()?) + &stops.rest() };
    put(&rest)?;
    if !ended_line || !rest.is_empty() {
        put("\n")?;
    }
    Ok(written)
}

fn report(numbers: &Numbers, session: &Session, speculation: &Speculation) {
    let speed = |n: u64, time: Duration| n as f64 / time.as_secs_f64().max(1e-9);
    let peak = crate::machine::peak().map_or_else(String::new, |bytes| format!(", peak memory {}", megabytes(bytes)));
    let kept = numbers.kept.map_or_else(String::new, |kept| format!(" ({kept} were kept)"));
    let ranks = numbers.ranks.map_or_else(String::new, |(n, sent)| format!(" on {n} ranks, sent {}", megabytes(sent)));
    eprintln!(
        "read {} tokens{kept} at {:.0} tok/s{ranks}, wrote {} at {:.0} tok/s{}, state {}{peak}",
        numbers.read,
        speed(numbers.read, numbers.reading),
        numbers.written,
        speed(numbers.written, numbers.writing),
        speculation::report(speculation, [0, 0]),
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
