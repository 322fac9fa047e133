//! The command line of longreach as a library: [`main`] is the program. Each subcommand is a file in `commands`.

mod agreement;
mod commands;
mod documents;
mod encoder;
mod failure;
mod interrupt;
mod kept;
mod lengths;
mod machine;
mod model;
mod parameters;
mod progress;
mod prompts;
mod ranks;
mod sampling;
mod speculation;
mod texts;
mod weights;

use std::ffi::OsString;
use std::io::Write;

use clap::{CommandFactory, Parser, Subcommand};

use crate::failure::Failure;
use crate::machine::MachineArgs;

/// An engine for long sequences.
///
/// longreach runs language models whose state has a fixed size, so a prompt of any length is read in constant memory. It embeds, classifies and searches
/// documents with encoders, answers questions about them, and trains models. `generate` works without a download: a small model is built into the program.
#[derive(Parser)]
#[command(name = "longreach", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_long_help = "\
Examples:
  longreach generate --prompt \"A trait is\" -n 100
  longreach embed --model sentence-transformers/all-MiniLM-L6-v2 --input texts.jsonl --out vectors.parquet
  longreach list

Run `longreach COMMAND --help` for the options of a command and for more examples.")]
struct Cli {
    #[command(flatten)]
    machine: MachineArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Accuracy(commands::accuracy::Args),
    Answer(commands::answer::Args),
    Ask(commands::ask::Args),
    #[command(subcommand)]
    Bench(commands::bench::Command),
    Chat(commands::chat::Args),
    Classify(commands::classify::Args),
    Convert(commands::convert::Args),
    Devices(commands::devices::Args),
    Embed(commands::embed::Args),
    FillMask(commands::fill_mask::Args),
    Generate(commands::generate::Args),
    Forward(commands::forward::Args),
    Importance(commands::importance::Args),
    Info(commands::info::Args),
    List(commands::list::Args),
    Merge(commands::merge::Args),
    Op(commands::op::Args),
    Pattern(commands::pattern::Args),
    Passkey(commands::passkey::Args),
    Predict(commands::predict::Args),
    Recall(commands::recall::Args),
    Score(commands::score::Args),
    #[command(subcommand)]
    Search(commands::search::Command),
    Serve(commands::serve::Args),
    Sparsify(commands::sparsify::Args),
    #[command(visible_alias = "summarize")]
    Summarise(commands::summarise::Args),
    Quantize(commands::quantize::Args),
    Tokenize(commands::tokenize::Args),
    Train(commands::train::Args),
    #[command(subcommand)]
    Vectors(commands::vectors::Command),
    Warm(commands::warm::Args),
    /// Print a completion script for a shell
    ///
    /// The script goes to standard output. Save it where the shell looks for completions, or evaluate it in the shell's startup file.
    #[command(after_long_help = "\
Examples:
  longreach completions bash > ~/.local/share/bash-completion/completions/longreach
  longreach completions fish > ~/.config/fish/completions/longreach.fish")]
    Completions {
        /// Shell to print the script for
        shell: clap_complete::Shell,
    },
}

/// What several processes of one job make of a command.
enum Part {
    /// They share its work.
    Shared,
    /// They would only repeat what one does; the command's name.
    Alone(&'static str),
    /// It reads no text: each does it.
    Each,
}

impl Command {
    fn part(&self) -> Part {
        Part::Alone(match self {
            Command::Generate(_) | Command::Forward(_) | Command::Op(_) => return Part::Shared,
            Command::Completions { .. } | Command::Devices(_) | Command::Info(_) | Command::List(_) => {
                return Part::Each;
            }
            Command::Accuracy(_) => "accuracy",
            Command::Answer(_) => "answer",
            Command::Ask(_) => "ask",
            Command::Bench(_) => "bench",
            Command::Chat(_) => "chat",
            Command::Classify(_) => "classify",
            Command::Convert(_) => "convert",
            Command::Embed(_) => "embed",
            Command::FillMask(_) => "fill-mask",
            Command::Importance(_) => "importance",
            Command::Merge(_) => "merge",
            Command::Pattern(_) => "pattern",
            Command::Passkey(_) => "passkey",
            Command::Predict(_) => "predict",
            Command::Recall(_) => "recall",
            Command::Score(_) => "score",
            Command::Search(_) => "search",
            Command::Serve(_) => "serve",
            Command::Sparsify(_) => "sparsify",
            Command::Summarise(_) => "summarise",
            Command::Quantize(_) => "quantize",
            Command::Tokenize(_) => "tokenize",
            Command::Train(_) => "train",
            Command::Vectors(_) => "vectors",
            Command::Warm(_) => "warm",
        })
    }
}

/// Settings that belong to a process rather than to a library: the program sets them, and another host of the command line may not be able to.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// Makes the global allocator keep freed memory, which training allocates again in every step.
    pub keep_memory: fn(),
}

/// The description of a mechanism as `longreach list NAME --json` prints it; an error that lists the known names if there is none.
pub fn describe(name: &str) -> Result<serde_json::Value, longreach_attention::Error> {
    Ok(commands::list::one_as_json(&longreach_attention::operation::named(name)?))
}

/// Runs the program with its arguments, of which the first is its own name, and returns its exit status: 0, 2 for arguments that cannot be read and for errors,
/// which are reported as one line, and 70 for a defect.
///
/// Sets the panic hook, the threads and the instruction set of the process.
pub fn main(args: impl IntoIterator<Item = OsString>, process: Process) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // If the stream is closed, nobody reads the message.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    // A panic is a bug in this program. It is reported as one line, without a backtrace.
    std::panic::set_hook(Box::new(|info| {
        if !longreach_search::is_guarded() {
            eprintln!("longreach: internal error, please report it: {info}");
        }
    }));
    let status = match std::panic::catch_unwind(|| run(cli, process).and_then(|()| ranks::finish())) {
        Ok(Ok(())) => 0,
        Ok(Err(failure)) => failure.report(),
        Err(_) => 70,
    };
    if status != 0 {
        // The other processes of the job would wait for this one.
        ranks::abort(status);
    }
    // Only a Rust program flushes standard output when it ends. A closed pipe is no error.
    let _ = std::io::stdout().flush();
    status
}

fn run(cli: Cli, process: Process) -> Result<(), Failure> {
    cli.machine.configure()?;
    if let (ranks::Together::Auto, Some((_, rank))) = (cli.machine.ranks, ranks::launched()) {
        match cli.command.part() {
            Part::Shared => ranks::start()?,
            Part::Alone(command) => return Err(ranks::refuse(command, rank)),
            Part::Each => {}
        }
    }
    // Only this benchmark measures training steps. The others measure commands that return memory to the system.
    let of_steps = matches!(cli.command, Command::Bench(commands::bench::Command::Attention(_)));
    if of_steps || matches!(cli.command, Command::Train(_) | Command::Recall(_) | Command::Passkey(_)) {
        (process.keep_memory)();
    }
    match cli.command {
        Command::Accuracy(args) => commands::accuracy::run(args),
        Command::Answer(args) => commands::answer::run(args),
        Command::Ask(args) => commands::ask::run(args),
        Command::Summarise(args) => commands::summarise::run(args),
        Command::Chat(args) => commands::chat::run(args),
        Command::Classify(args) => commands::classify::run(args),
        Command::Convert(args) => commands::convert::run(args),
        Command::Devices(args) => commands::devices::run(args),
        Command::Embed(args) => commands::embed::run(args),
        Command::FillMask(args) => commands::fill_mask::run(args),
        Command::Sparsify(args) => commands::sparsify::run(args),
        Command::Tokenize(args) => commands::tokenize::run(args),
        Command::Quantize(args) => commands::quantize::run(args),
        Command::Search(command) => commands::search::run(command),
        Command::Serve(args) => commands::serve::run(args),
        Command::Bench(command) => commands::bench::run(command),
        Command::Generate(args) => commands::generate::run(args),
        Command::Forward(args) => commands::forward::run(args),
        Command::Importance(args) => commands::importance::run(args),
        Command::Info(args) => commands::info::run(args),
        Command::List(args) => commands::list::run(args),
        Command::Merge(args) => commands::merge::run(args),
        Command::Op(args) => commands::op::run(args),
        Command::Pattern(args) => commands::pattern::run(args),
        Command::Passkey(args) => commands::passkey::run(args),
        Command::Predict(args) => commands::predict::run(args),
        Command::Score(args) => commands::score::run(args),
        Command::Recall(args) => commands::recall::run(args),
        Command::Train(args) => commands::train::run(args),
        Command::Vectors(command) => commands::vectors::run(command),
        Command::Warm(args) => commands::warm::run(args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "longreach", &mut std::io::stdout());
            Ok(())
        }
    }
}
