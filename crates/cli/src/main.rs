//! The command line of longreach. A subcommand is a file in `commands`.

mod allocator;
mod commands;
mod documents;
mod encoder;
mod failure;
mod interrupt;
mod machine;
mod model;
mod parameters;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::failure::Failure;
use crate::machine::MachineArgs;

/// An engine for long sequences.
///
/// Reads texts of any length in constant memory with state-space models, and writes more: with no model named, the small one built into this program does.
/// Makes vectors of long documents with encoders, finds passages by them, labels texts and answers questions.
#[derive(Parser)]
#[command(name = "longreach", version, propagate_version = true, arg_required_else_help = true)]
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
    #[command(subcommand)]
    Bench(commands::bench::Command),
    Classify(commands::classify::Args),
    Embed(commands::embed::Args),
    FillMask(commands::fill_mask::Args),
    Generate(commands::generate::Args),
    Forward(commands::forward::Args),
    Info(commands::info::Args),
    List(commands::list::Args),
    Op(commands::op::Args),
    Pattern(commands::pattern::Args),
    Passkey(commands::passkey::Args),
    Recall(commands::recall::Args),
    #[command(subcommand)]
    Search(commands::search::Command),
    Sparsify(commands::sparsify::Args),
    Train(commands::train::Args),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A panic is a defect of this program, and is reported as one: a line, no backtrace.
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
    // Of the benches the one of the steps of a training; the others measure what commands do that give memory back.
    let of_steps = matches!(cli.command, Command::Bench(commands::bench::Command::Attention(_)));
    if of_steps || matches!(cli.command, Command::Train(_) | Command::Recall(_) | Command::Passkey(_)) {
        allocator::keep_memory();
    }
    match cli.command {
        Command::Accuracy(args) => commands::accuracy::run(args),
        Command::Answer(args) => commands::answer::run(args),
        Command::Classify(args) => commands::classify::run(args),
        Command::Embed(args) => commands::embed::run(args),
        Command::FillMask(args) => commands::fill_mask::run(args),
        Command::Sparsify(args) => commands::sparsify::run(args),
        Command::Search(command) => commands::search::run(command),
        Command::Bench(command) => commands::bench::run(command),
        Command::Generate(args) => commands::generate::run(args),
        Command::Forward(args) => commands::forward::run(args),
        Command::Info(args) => commands::info::run(args),
        Command::List(args) => commands::list::run(args),
        Command::Op(args) => commands::op::run(args),
        Command::Pattern(args) => commands::pattern::run(args),
        Command::Passkey(args) => commands::passkey::run(args),
        Command::Recall(args) => commands::recall::run(args),
        Command::Train(args) => commands::train::run(args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "longreach", &mut std::io::stdout());
            Ok(())
        }
    }
}
