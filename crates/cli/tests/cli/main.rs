//! The program as its users meet it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

mod bad_input;
mod chat;
mod convert;
mod devices;
#[cfg(unix)]
mod documents;
mod encode;
mod forward;
mod found;
mod generate;
#[cfg(feature = "gpu")]
mod gpu;
mod hub;
#[cfg(not(feature = "mpi"))]
mod launched;
mod long;
mod op;
mod passkey;
mod pattern;
mod predict;
#[cfg(feature = "mpi")]
mod ranks;
mod readme;
#[cfg(unix)]
mod serve;
mod serve_faults;
#[cfg(target_os = "linux")]
mod terminal;
#[cfg(unix)]
mod training;

/// The program, with an empty environment as far as the Hub is concerned.
fn longreach(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longreach"));
    command.args(args).env_remove("LONGREACH_ISA").env("HF_HUB_OFFLINE", "1").env("HF_HOME", "/nonexistent");
    command
}

fn run(args: &[&str]) -> Output {
    longreach(args).output().expect("the program starts")
}

/// What a successful run prints.
#[track_caller]
fn stdout(args: &[&str]) -> String {
    let output = run(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

/// A golden checkpoint.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/goldens").join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
