//! The command line of longreach. Each subcommand is a file in `commands`.

mod agreement;
mod allocator;
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
mod sampling;
mod speculation;
mod texts;
mod weights;

use std::process::ExitCode;

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

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A panic is a bug in this program. It is reported as one line, without a backtrace.
    std::panic::set_hook(Box::new(|info| {
        if !longreach_search::is_guarded() {
            eprintln!("longreach: internal error, please report it: {info}");
        }
    }));
    match std::panic::catch_unwind(|| run(cli)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => failure.report(),
        Err(_) => ExitCode::from(70),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    cli.machine.configure()?;
    // Only this benchmark measures training steps. The others measure commands that return memory to the system.
    let of_steps = matches!(cli.command, Command::Bench(commands::bench::Command::Attention(_)));
    if of_steps || matches!(cli.command, Command::Train(_) | Command::Recall(_) | Command::Passkey(_)) {
        allocator::keep_memory();
    }
    match cli.command {
        Command::Accuracy(args) => commands::accuracy::run(args),
        Command::Answer(args) => commands::answer::run(args),
        Command::Ask(args) => commands::ask::run(args),
        Command::Summarise(args) => commands::summarise::run(args),
        Command::Chat(args) => commands::chat::run(args),
        Command::Classify(args) => commands::classify::run(args),
        Command::Convert(args) => commands::convert::run(args),
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
        Command::Score(args) => commands::score::run(args),
        Command::Recall(args) => commands::recall::run(args),
        Command::Train(args) => commands::train::run(args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "longreach", &mut std::io::stdout());
            Ok(())
        }
    }
}
