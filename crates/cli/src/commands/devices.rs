//! `longreach devices`

use longreach_burn::{DeviceName, context, devices};
use serde_json::json;

use crate::failure::Failure;

/// List the devices that models can run on
///
/// Their names are the values of --device, which all commands take.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach devices
  longreach devices --json")]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let names: Vec<String> = devices().iter().map(DeviceName::to_string).collect();
    let cx = context();
    let (isa, threads) = (cx.isa.name(), cx.team.threads());
    if args.json {
        let all: Vec<_> = names.iter().map(|name| json!({"name": name, "isa": isa, "threads": threads})).collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    for name in names {
        println!("{name:<8}  instruction set {isa}, threads: {threads}");
    }
    Ok(())
}
