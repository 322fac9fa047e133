use std::io::Write;
use std::process::Stdio;

use crate::{golden, longreach, run, stdout, text};

#[test]
fn the_same_seed_is_the_same_text_on_any_number_of_threads() {
    let write = |threads: &str, seed: &str| {
        stdout(&["generate", "--prompt", "A trait is", "-n", "40", "--threads", threads, "--seed", seed])
    };
    let first = write("1", "5");
    assert!(first.trim().len() > 40, "{first:?}");
    assert_eq!(first, write("2", "5"));
    assert_eq!(first, write("3", "5"));
    assert_ne!(first, write("1", "6"));
}

#[test]
fn the_closing_line_has_the_numbers() {
    let output = run(&["generate", "--prompt", "A trait is", "-n", "7", "--ignore-eos"]);
    let said = String::from_utf8(output.stderr).expect("text");
    let line = said.lines().last().expect("a closing line");
    assert!(line.starts_with("read 3 tokens at "), "{line}");
    for part in [" tok/s, wrote 7 at ", ", state ", ", peak memory "] {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn a_saved_state_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().expect("a directory");
    let (first, second) = (folder.path().join("a.state"), folder.path().join("b.state"));
    let whole = stdout(&["generate", "--prompt", "The borrow checker", "-n", "60", "--seed", "3", "--ignore-eos"]);
    let options = ["--seed", "3", "--ignore-eos"];
    let a = stdout(
        &[&["generate", "--prompt", "The borrow checker", "-n", "25", "--save-state", text(&first)], &options[..]]
            .concat(),
    );
    let b =
        stdout(&["generate", "--load-state", text(&first), "-n", "35", "--ignore-eos", "--save-state", text(&second)]);
    // A line's end is added where the text has none.
    let joined = format!("{}{}", a.strip_suffix('\n').unwrap_or(&a), b);
    assert_eq!(joined.trim_end(), whole.trim_end());
    // And to the bit: the state after both halves is the state after the whole.
    let third = folder.path().join("c.state");
    stdout(
        &[&["generate", "--prompt", "The borrow checker", "-n", "60", "--save-state", text(&third)], &options[..]]
            .concat(),
    );
    assert_eq!(std::fs::read(second).expect("saved").len(), std::fs::read(&third).expect("saved").len());
    let tensors = |file: &std::path::Path| {
        let bytes = std::fs::read(file).expect("saved");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a state");
        let mut all: Vec<_> = file.tensors().into_iter().map(|(n, t)| (n, t.data().to_vec())).collect();
        all.sort();
        all
    };
    assert_eq!(tensors(&folder.path().join("b.state")), tensors(&third));
}

#[test]
fn a_prompt_is_the_same_from_anywhere() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("prompt.txt");
    // Longer than a piece of the reader and than a chunk of the model, with characters of several bytes.
    let prompt =
        "Ownership — naïvely put — is a set of rules.\nThey say who frees what, and when: “once”.\n".repeat(1500);
    std::fs::write(&file, &prompt).expect("written");
    let from_file = stdout(&["generate", "--prompt-file", text(&file), "-n", "20"]);
    let mut child = longreach(&["generate", "-", "-n", "20"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("a pipe").write_all(prompt.as_bytes()).expect("written");
    let from_pipe = child.wait_with_output().expect("it ends");
    assert_eq!(from_file.as_bytes(), from_pipe.stdout);
}

#[test]
fn bf16_keeps_half_the_memory_and_writes_text() {
    let whole = stdout(&["info", "--dtype", "f32"]);
    let half = stdout(&["info", "--dtype", "bf16"]);
    assert!(whole.contains("loaded as f32") && half.contains("loaded as bf16"));
    assert!(!stdout(&["generate", "--dtype", "bf16", "-n", "10"]).is_empty());
}

#[test]
fn every_instruction_set_writes_the_same_greedy_text() {
    let write = |isa: &str| {
        let args = ["generate", "--prompt", "A trait is", "-n", "30", "--temperature", "0"];
        let output = longreach(&args).env("LONGREACH_ISA", isa).output().expect("the program starts");
        assert!(output.status.success(), "{isa}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let list: serde_json::Value = serde_json::from_str(&stdout(&["list", "--json"])).expect("JSON");
    let scalar = write("scalar");
    for isa in list["machine"]["isa"].as_array().expect("a list") {
        assert_eq!(scalar, write(isa.as_str().expect("a name")), "{isa}");
    }
}

#[test]
fn info_says_what_a_model_is() {
    let said = stdout(&["info", text(&golden("falcon_mamba-a"))]);
    for part in ["falcon_mamba", "parameters", "tokenizer      none", "mechanism      mamba"] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn completions_are_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(stdout(&["completions", shell]).contains("generate"), "{shell}");
    }
}

#[test]
fn what_a_token_costs_is_measured_along_a_text() {
    let model = golden("mamba-a");
    let args = ["bench", "read", "-m", text(&model), "--at", "64,256", "--tokens", "16", "--repeats", "2", "--json"];
    let lines = stdout(&args);
    let lines: Vec<serde_json::Value> = lines.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let [first, last] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((first["at"].as_u64(), last["at"].as_u64()), (Some(64), Some(256)));
    assert_eq!(first["state_bytes"], last["state_bytes"]);
    assert!(last["cost"].as_f64() > Some(0.0) && last["cost_least"].as_f64() <= last["cost_most"].as_f64());
    let output = run(&["bench", "read", "-m", text(&model), "--at", "256,64"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("--at") && said.lines().count() == 1, "{said}");
}
