//! Options for threads and instruction set, shared by all subcommands.

use clap::Args;
use longreach_simd::{Cx, Isa};

use crate::failure::Failure;
use crate::ranks::Together;

#[derive(Args)]
pub(crate) struct MachineArgs {
    /// Number of threads; results do not depend on it [default: all cores]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Whether the processes that mpirun has started read one text together, with a program built with MPI
    #[arg(long, global = true, value_name = "WHICH", value_enum, default_value_t)]
    pub(crate) ranks: Together,
}

impl MachineArgs {
    /// Configures the thread count and the instruction set (`LONGREACH_ISA`) of this process; an error if the CPU lacks that instruction set.
    pub(crate) fn configure(&self) -> Result<(), Failure> {
        let isa = match std::env::var("LONGREACH_ISA") {
            Ok(name) => name.parse().map_err(|e| Failure::new(format!("LONGREACH_ISA: {e}")))?,
            Err(_) => Isa::detect(),
        };
        let all = std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = self.threads.map_or(all, usize::from);
        longreach_burn::reconfigure(Cx::with_isa(isa, threads));
        Ok(())
    }
}

/// Peak resident memory of this process in bytes; `None` where `/proc` does not report it.
pub(crate) fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
