//! `longreach devices`

use longreach_burn::{context, devices};
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
    let names = devices();
    let cx = context();
    let (isa, threads) = (cx.isa.name(), cx.team.threads());
    if args.json {
        let all = names.into_iter().map(|name| match name.adapter() {
            Some(adapter) => json!({"name": name.to_string(), "adapter": adapter}),
            None => json!({"name": name.to_string(), "isa": isa, "threads": threads}),
        });
        let all: Vec<_> = all.collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    for name in names {
        let name_of = name.to_string();
        match name.adapter() {
            Some(adapter) => println!("{name_of:<8}  {adapter}"),
            None => println!("{name_of:<8}  instruction set {isa}, threads: {threads}"),
        }
    }
    Ok(())
}
