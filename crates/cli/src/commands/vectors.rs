//! `longreach vectors`

use std::path::PathBuf;

use clap::Subcommand;
use longreach_search::join::join;

use crate::documents::OverwriteArgs;
use crate::failure::Failure;

/// Join the outputs of several machines
#[derive(Subcommand)]
pub(crate) enum Command {
    Join(JoinArgs),
}

/// Join the shards of `longreach embed --shard` into one output, in the order of the texts
///
/// All shards of one job must be given, in any order.
#[derive(clap::Args)]
#[command(after_long_help = "\
Example:
  longreach vectors join part-*.arrow --out vectors.parquet")]
pub(crate) struct JoinArgs {
    /// Outputs of `longreach embed --shard`
    #[arg(value_name = "FILE", required = true)]
    shards: Vec<PathBuf>,
    /// Output file: .parquet, .arrow, .npy or .jsonl
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    overwrite: OverwriteArgs,
}

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    let Command::Join(args) = command;
    args.overwrite.note(&args.out);
    let rows = join(&args.shards, &args.out, args.overwrite.existing())?;
    eprintln!("joined {} shards as {rows} rows of {}", args.shards.len(), args.out.display());
    Ok(())
}
