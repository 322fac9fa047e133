//! The commands of README and docs, as they are written.

use std::io::BufRead;
use std::path::Path;

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name))
        .expect("a file of the project")
}

/// The shell blocks of a page.
fn blocks(page: &str) -> Vec<String> {
    let of = |rest: &str| rest.split("```").next().unwrap_or_default().to_owned();
    page.split("```sh\n").skip(1).map(of).collect()
}

/// Every page with commands, without docs/training.md, whose commands need the files that it shows: `training.rs` runs them.
fn pages() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = vec![read("README.md")];
    for (folder, depth) in [("docs", 1), ("models", 2)] {
        let mut folders = vec![(root.join(folder), depth)];
        while let Some((folder, depth)) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder of the project").flatten() {
                let path = entry.path();
                if path.is_dir() && depth > 1 {
                    folders.push((path, depth - 1));
                } else if path.extension().is_some_and(|end| end == "md") && !path.ends_with("docs/training.md") {
                    pages.push(std::fs::read_to_string(path).expect("a page"));
                }
            }
        }
    }
    pages
}

/// Commands to run, without those that compile the project, and what the comment above them says they need.
fn commands() -> Vec<(Option<String>, String)> {
    let mut all = Vec::new();
    for block in pages().iter().flat_map(|page| blocks(page)) {
        let comment = block.lines().find_map(|line| line.strip_prefix("# ")).map(str::to_owned);
        for line in block.lines().filter(|line| !line.starts_with('#')) {
            let line = line.replace("cargo run --release -- ", "longreach ");
            let command = (comment.clone(), line);
            if command.1.contains("longreach ") && !all.contains(&command) {
                all.push(command);
            }
        }
    }
    all
}

/// Runs a shell command in a folder that looks like the project's, with the program on the path and without a network.
fn shell(command: &str, folder: &Path) -> std::process::Output {
    let binary = Path::new(env!("CARGO_BIN_EXE_longreach"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut paths = vec![binary.parent().expect("a folder").to_owned()];
    paths.extend(std::env::split_paths(&path));
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", command]).current_dir(folder).env("PATH", std::env::join_paths(paths).expect("a path"));
    shell.env_remove("LONGREACH_ISA").env("HF_HUB_OFFLINE", "1").env("HF_HOME", "/nonexistent");
    shell.output().expect("a shell")
}

/// A folder with what is in the project's.
fn like_the_project() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the project");
    for entry in std::fs::read_dir(&root).expect("the project").flatten() {
        if entry.file_name() != "target" && entry.file_name() != ".git" {
            std::os::unix::fs::symlink(entry.path(), folder.path().join(entry.file_name())).expect("a link");
        }
    }
    folder
}

/// Starts a server, on a port that is free, and interrupts it as soon as it listens; whether it ended as it should.
fn until_interrupted(command: &str, folder: &Path) -> bool {
    let binary = Path::new(env!("CARGO_BIN_EXE_longreach"));
    let arguments = command.strip_prefix("longreach ").expect("a command of this program").replace("--port 8080", "");
    let mut server = std::process::Command::new(binary);
    server.args(arguments.split_whitespace()).args(["--port", "0"]).current_dir(folder);
    let mut server = server.stderr(std::process::Stdio::piped()).spawn().expect("a server");
    let said = std::io::BufReader::new(server.stderr.take().expect("its messages"));
    let listens = said.lines().map_while(Result::ok).any(|line| line.starts_with("listening on "));
    let interrupt = std::process::Command::new("kill").args(["-INT", &server.id().to_string()]).status();
    server.wait().expect("an end").success() && listens && interrupt.is_ok_and(|status| status.success())
}

/// Every command of the documents runs as it is written, in their order. Of those that download a model it is checked that their arguments are valid:
/// without a network they fail when they look for the model. Commands that take hours are not run.
#[test]
fn commands_of_the_documents_run() {
    let folder = like_the_project();
    let (mut ran, mut offline) = (0, 0);
    for (comment, command) in commands() {
        let output = match comment.as_deref() {
            None => shell(&command, folder.path()),
            Some(comment) if comment.starts_with("downloads") => shell(&command, folder.path()),
            Some(comment) if comment.starts_with("runs until Ctrl-C") => {
                assert!(until_interrupted(&command, folder.path()), "{command}");
                ran += 1;
                continue;
            }
            Some(comment) => {
                assert!(comment.starts_with("needs ") || comment.starts_with("takes "), "{comment}");
                continue;
            }
        };
        let said = String::from_utf8_lossy(&output.stderr);
        if comment.is_none() {
            assert!(output.status.success(), "{command}: {said}");
            ran += 1;
        } else {
            assert!(!output.status.success() && !said.contains("Usage:"), "{command}: {said}");
            offline += 1;
        }
    }
    assert!(ran >= 12 && offline >= 8, "{ran} ran, {offline} look for a model");
}
