//! The program `longreach`. Its command line is in the library of this package.

mod allocator;

use std::process::ExitCode;

fn main() -> ExitCode {
    longreach_cli::main(std::env::args_os(), longreach_cli::Process { keep_memory: allocator::keep_memory }).into()
}
