//! The command `longreach`, from within the interpreter.

use std::ffi::OsString;

use pyo3::prelude::*;

/// Runs the command line with its arguments, of which the first is its own name, and returns its exit status.
#[pyfunction]
pub(crate) fn main(py: Python<'_>, args: Vec<OsString>) -> u8 {
    // The allocator is the interpreter's, which has no such option.
    py.detach(|| longreach_cli::main(args, longreach_cli::Process { keep_memory: || {} }))
}
