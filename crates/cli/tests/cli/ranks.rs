//! The program under `mpirun`: several processes read one text, and their files are those of one.

use std::path::Path;
use std::process::{Command, Output};

use longreach_attention::operation::{Sample, named};

use crate::{golden, stdout, text};

/// The program as `n` ranks.
fn mpirun(n: usize, args: &[&str]) -> Output {
    let mut command = Command::new("mpirun");
    command.args(["--oversubscribe", "-n", &n.to_string(), env!("CARGO_BIN_EXE_longreach")]).args(args);
    command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", "/nonexistent").env_remove("LONGREACH_ISA");
    // Containers run as root.
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.output().expect("mpirun starts")
}

#[track_caller]
fn ran(n: usize, args: &[&str]) -> (String, String) {
    let output = mpirun(n, args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{n} ranks, {args:?}: {said}");
    (String::from_utf8(output.stdout).expect("text"), said)
}

fn bytes(file: &Path) -> Vec<u8> {
    std::fs::read(file).expect("a file that was written")
}

#[test]
fn a_text_that_ranks_read_and_its_state_are_those_of_one_process() {
    let folder = tempfile::tempdir().expect("a directory");
    let at = |name: &str| folder.path().join(name);
    let prompt = at("prompt.txt");
    std::fs::write(&prompt, "A trait tells the compiler about functionality a type has. ".repeat(60)).expect("written");
    let call = |state: &Path| {
        let call = ["generate", "--prompt-file", text(&prompt), "-n", "5", "--seed", "3", "--save-state", text(state)];
        call.map(str::to_owned)
    };
    let alone = stdout(&call(&at("alone.state")).each_ref().map(String::as_str));
    for n in [1, 2, 3] {
        let state = at("ranks.state");
        let (written, said) = ran(n, &call(&state).each_ref().map(String::as_str));
        assert_eq!(written, alone, "{n} ranks");
        assert_eq!(bytes(&state), bytes(&at("alone.state")), "{n} ranks");
        assert_eq!(said.contains(&format!("on {n} ranks, sent ")), n > 1, "{said}");
    }
}

#[test]
fn hidden_states_are_those_of_one_process_that_reads_the_same_chunks() {
    let folder = tempfile::tempdir().expect("a directory");
    let at = |name: &str| folder.path().join(name);
    let rows = (0..2).map(|b| (0..50).map(|t| (t * t * 7 + b + 3) % 40).collect::<Vec<u32>>()).collect::<Vec<_>>();
    std::fs::write(at("tokens.json"), serde_json::json!({ "input_ids": rows }).to_string()).expect("written");
    for model in ["llama-a", "mamba2-b"] {
        let (model, tokens) = (golden(model), at("tokens.json"));
        let call = ["forward", "--model", text(&model), "--tokens", text(&tokens), "--chunk", "8", "--out"];
        let (alone, ranks) = (at("alone.safetensors"), at("ranks.safetensors"));
        stdout(&[&call[..], &[text(&alone)]].concat());
        ran(3, &[&call[..], &[text(&ranks)]].concat());
        assert_eq!(bytes(&ranks), bytes(&alone), "{}", model.display());
    }
}

#[test]
fn mechanisms_over_ranks_are_those_of_one_process() {
    let folder = tempfile::tempdir().expect("a directory");
    let at = |name: &str| folder.path().join(name);
    for (name, parameters) in [("dense", r#"{"causal": true}"#), ("window", r#"{"left": 20}"#), ("gated_delta", "{}")] {
        let operation = named(name).expect("a mechanism");
        let mut inputs = operation.sample(&Sample { tokens: 100, heads: 2, width: 4, ..Sample::default() });
        inputs.insert("do".into(), inputs["v"].clone());
        let (file, alone, ranks) = (at("in.safetensors"), at("alone.safetensors"), at("ranks.safetensors"));
        crate::op::write(&file, &inputs);
        let call = ["op", name, "--inputs", text(&file), "--params", parameters, "--grad", "--out"];
        stdout(&[&call[..], &[text(&alone)]].concat());
        ran(3, &[&call[..], &[text(&ranks)]].concat());
        let (alone, ranks) = (crate::op::read(&alone), crate::op::read(&ranks));
        assert_eq!(alone.keys().collect::<Vec<_>>(), ranks.keys().collect::<Vec<_>>(), "{name}");
        for (tensor, want) in &alone {
            assert!(crate::op::apart(want, &ranks[tensor]) < 1e-4, "{name}: {tensor}");
        }
    }
}

#[test]
fn a_job_that_fails_ends_with_one_message_and_no_file() {
    let folder = tempfile::tempdir().expect("a directory");
    let state = folder.path().join("a.state");
    let failed = |args: &[&str], message: &str| {
        let output = mpirun(2, args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(message), "{said}");
        assert!(!state.exists());
    };
    let save = ["--save-state", text(&state)];
    failed(&[&["generate", "--prompt-file", "/nonexistent"][..], &save].concat(), "rank 0: /nonexistent");
    failed(&[&["generate", "--cache-dir", "kept", "--prompt", "A"][..], &save].concat(), "--cache-dir");
    failed(&["score", "/nonexistent"], "score works in one process");
    failed(&["op", "nystrom", "--inputs", "/nonexistent", "--out", "o.safetensors"], "/nonexistent");
}
