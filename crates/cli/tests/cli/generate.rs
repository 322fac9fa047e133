use std::io::Write;
use std::path::Path;
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

/// The built-in model proposes to itself, and knows the tokens; lookup finds some of a text that repeats itself.
#[test]
fn speculation_changes_nothing_but_is_counted() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("a.state");
    let draft = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/default");
    let prompt = "A trait is a set of methods. A type is a set of values. A trait is a set of methods. A type is";
    for sampling in [&["--temperature", "0"][..], &["--seed", "7", "--frequency-penalty", "0.1"]] {
        let options = ["generate", "--prompt", prompt, "-n", "30", "--ignore-eos", "--save-state", text(&file)];
        let args = [&options[..], sampling].concat();
        let plain = stdout(&args);
        let state = std::fs::read(&file).expect("saved");
        for speculation in [&["--speculate", "lookup"][..], &["--draft", text(&draft)]] {
            let output = run(&[&args[..], speculation].concat());
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{said}");
            assert_eq!(String::from_utf8(output.stdout).expect("text"), plain, "{speculation:?}");
            // The state has the tokens of the text as well.
            let tensors = |bytes: &[u8]| {
                let file = safetensors::SafeTensors::deserialize(bytes).expect("a state");
                let all = file.tensors().into_iter().filter(|(name, _)| name != "text");
                let mut all: Vec<_> = all.map(|(name, tensor)| (name, tensor.data().to_vec())).collect();
                all.sort();
                all
            };
            assert!(tensors(&std::fs::read(&file).expect("saved")) == tensors(&state), "{speculation:?}");
            let line = said.lines().last().expect("a closing line");
            let accepted = line.split("accepted ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok());
            let least = if speculation[0] == "--draft" { 20 } else { 0 };
            assert!(accepted.is_some_and(|n| n >= least) && line.contains(" proposed tokens, state "), "{line}");
        }
    }
}

#[test]
fn a_text_ends_before_a_stop_string() {
    let options = ["generate", "--prompt", "A trait is", "-n", "40", "--seed", "4", "--ignore-eos"];
    let whole = stdout(&options);
    for (from, length) in [(3, 2), (20, 11), (50, 7)] {
        let stop: String = whole.chars().skip(from).take(length).collect();
        let got = stdout(&[&options[..], &["--stop", "no such text", "--stop", &stop]].concat());
        let want = &whole[..whole.find(&stop).expect("it is there")];
        assert_eq!(got.strip_suffix('\n').unwrap_or(&got), want.strip_suffix('\n').unwrap_or(want), "{stop:?}");
    }
}

#[test]
fn biases_and_penalties_change_the_text() {
    let options = ["generate", "--prompt", "The", "-n", "30", "--temperature", "0", "--ignore-eos"];
    let plain = stdout(&options);
    // A token that is excluded is not there.
    let word =
        plain.split_whitespace().find(|word| word.len() > 2 && word.chars().all(char::is_alphabetic)).expect("a word");
    let excluded = stdout(&[&options[..], &["--logit-bias", &format!(" {word}=-inf")]].concat());
    assert_ne!(excluded, plain);
    for penalty in [["--presence-penalty", "5"], ["--frequency-penalty", "5"], ["--repetition-penalty", "3"]] {
        assert_ne!(stdout(&[&options[..], &penalty].concat()), plain, "{penalty:?}");
    }
    let boosted = stdout(&[&options[..], &["--logit-bias", "5=1000"]].concat());
    assert_ne!(boosted, plain);
    for (bad, part) in [
        (["--logit-bias", "99999999=1"], "want an id from 0 to "),
        (["--logit-bias", "5"], "want ID=X or TEXT=X"),
        (["--logit-bias", "5=inf"], "logit-bias: want a number, or -inf"),
        (["--typical-p", "0"], "typical-p: want above 0, at most 1"),
        (["--stop", ""], "--stop: the text is empty"),
        (["--draft", "/nonexistent"], "/nonexistent"),
    ] {
        let output = run(&[&options[..], &bad].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(part), "{bad:?}: {said}");
    }
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

/// The numbers of tokens that were read and that were kept, by the closing line.
fn read_and_kept(output: &std::process::Output) -> (u64, u64) {
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().find(|line| line.starts_with("read ")).expect("a closing line").to_owned();
    let number = |before: &str| {
        let rest = line.split(before).nth(1).unwrap_or_else(|| panic!("{line}"));
        rest.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    };
    (number("read "), number("tokens ("))
}

#[test]
fn a_prompt_is_not_read_twice_with_a_directory_of_states() {
    let folder = tempfile::tempdir().expect("a directory");
    let states = folder.path().join("states");
    let prompt = "Ownership is a set of rules that govern how a program manages memory. ".repeat(12);
    let write = |prompt: &str, more: &[&str]| {
        run(&[&["generate", "--prompt", prompt, "-n", "12", "--seed", "3"], more].concat())
    };
    let with = ["--cache-dir", text(&states)];
    let plain = write(&prompt, &[]);
    let first = write(&prompt, &with);
    let second = write(&prompt, &with);
    let other = format!("{prompt}And");
    let (longer, want) = (write(&other, &with), write(&other, &[]));
    assert_eq!(plain.stdout, first.stdout);
    assert_eq!(plain.stdout, second.stdout);
    assert_eq!(want.stdout, longer.stdout);
    let (all, none) = read_and_kept(&first);
    assert!(all > 100 && none == 0);
    assert_eq!(read_and_kept(&second), (0, all));
    let (read, kept) = read_and_kept(&longer);
    assert!(read < 70 && kept % 64 == 0 && kept > 100, "{read} {kept}");
}

/// A disk that takes no more bytes costs no answer.
#[test]
#[cfg(unix)]
fn a_full_disk_is_a_note() {
    let folder = tempfile::tempdir().expect("a directory");
    let states = folder.path().join("states");
    let prompt = "Ownership is a set of rules. ".repeat(20);
    let command = r#"trap '' XFSZ; ulimit -f 8; exec "$0" "$@""#;
    let output = std::process::Command::new("bash")
        .args(["-c", command, env!("CARGO_BIN_EXE_longreach")])
        .args(["generate", "--prompt", &prompt, "-n", "5", "--cache-dir", text(&states)])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !output.stdout.is_empty(), "{said}");
    assert!(said.contains("note: states were not kept: "), "{said}");
    // Nothing half written is left.
    let files = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let left: Vec<_> = files(&states.join("v1")).flat_map(|folder| files(&folder).collect::<Vec<_>>()).collect();
    assert!(left.is_empty(), "{left:?}");
}
