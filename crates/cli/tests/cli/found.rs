//! What users have, on the command line: pairs of texts, settings that models bring, paths that are not UTF-8, outputs that cannot be written.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{golden, longreach, run, stdout, text};

fn of_engine(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/goldens").join(name)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory").flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("copied");
        }
    }
}

fn stderr(args: &[&str]) -> String {
    String::from_utf8(run(args).stderr).expect("text")
}

/// The scores of the labels of one line of `classify --json`, in the order of the labels.
fn scores(line: &str) -> Vec<f64> {
    let line: Value = serde_json::from_str(line).expect("JSON");
    let labels = line["labels"].as_array().expect("labels");
    let of =
        |label: &str| labels.iter().find(|l| l["label"] == label).expect("a label")["score"].as_f64().expect("a score");
    ["0", "1", "2"].map(of).to_vec()
}

#[test]
fn pairs_are_given_as_arguments_and_as_columns() {
    let model = of_engine("labels");
    let expected: Value =
        serde_json::from_slice(&fs::read(model.join("expected.json")).expect("a file")).expect("JSON");
    let pairs = expected["pairs"].as_array().expect("pairs");
    let close = |line: &str, i: usize| {
        let want = expected["of_pairs"][i].as_array().expect("scores");
        for (got, want) in scores(line).iter().zip(want) {
            assert!((got - want.as_f64().expect("a score")).abs() < 2e-5, "pair {i}: {line}");
        }
    };
    let of = |i: usize, j: usize| pairs[i][j].as_str().expect("a text");
    let line = stdout(&["classify", "-m", text(&model), "--json", "-n", "3", of(0, 0), "--pair", of(0, 1)]);
    close(&line, 0);
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("pairs.jsonl");
    let lines: Vec<String> = pairs.iter().map(|p| json!({"a": p[0], "b": p[1]}).to_string()).collect();
    fs::write(&file, lines.join("\n")).expect("written");
    let args =
        ["classify", "-m", text(&model), "--json", "-n", "3", "-i", text(&file), "--column", "a", "--pair-column", "b"];
    stdout(&args).lines().enumerate().for_each(|(i, line)| close(line, i));
    assert!(stderr(&args).contains("1 pairs were longer"), "the last pair is cut off, and that is said");
    let tokens = of_engine("entities");
    assert!(stderr(&["classify", "-m", text(&tokens), "a", "--pair", "b"]).contains("not pairs"));
}

#[test]
fn info_says_what_embed_will_do() {
    let said = stdout(&["info", text(&of_engine("st-bert-mean"))]);
    assert!(said.contains("embed reads    48 tokens"), "the limit of the folder, not the model's 64: {said}");
    assert!(said.contains("mean pooling, then normalised"), "{said}");
    assert!(said.contains("prompts        document, passage, query"), "{said}");
}

/// All of the weights are cached afterwards, and `info` and `warm` say the same of them.
#[cfg(target_os = "linux")]
#[test]
fn warm_reads_the_weights_into_the_page_cache() {
    let folder = tempfile::tempdir().expect("a directory");
    let model = folder.path().join("model");
    copy(&of_engine("st-bert-mean"), &model);
    let said = stdout(&["warm", text(&model)]);
    let parts: Vec<&str> = said.split_whitespace().collect();
    assert!(parts[0] == parts[3] && said.contains("are cached"), "{said}");
    assert!(stdout(&["info", text(&model)]).contains(&format!("page cache     {}", said.trim())), "{said}");
}

#[cfg(unix)]
#[test]
fn paths_need_not_be_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().expect("a directory");
    let model = folder.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    copy(&of_engine("st-bert-mean"), &model);
    let input = folder.path().join(std::ffi::OsStr::from_bytes(b"t\xe9xt.txt"));
    fs::write(&input, "words\n").expect("written");
    let out = folder.path().join("v.jsonl");
    let output = longreach(&["embed"]).arg("-m").arg(&model).arg("-i").arg(&input).arg("-o").arg(&out).output();
    let output = output.expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(&out).expect("vectors").lines().count(), 1);
}

#[test]
fn a_state_that_cannot_be_written_is_found_before_the_prompt_is_read() {
    let folder = tempfile::tempdir().expect("a directory");
    let prompt = folder.path().join("p.txt");
    fs::write(&prompt, "A trait is ".repeat(200_000)).expect("written");
    let state = folder.path().join("none/x.state");
    let start = std::time::Instant::now();
    let said = stderr(&["generate", "--prompt-file", text(&prompt), "--save-state", text(&state)]);
    assert!(said.contains("none/x.state") && said.contains("cannot be written"), "{said}");
    assert!(start.elapsed().as_secs_f64() < 5.0, "the prompt, of two million characters, was not read");
    assert!(stderr(&["generate", "--save-state", text(folder.path())]).contains("is a directory"));
}

#[test]
fn what_is_read_is_never_written_over() {
    let folder = tempfile::tempdir().expect("a directory");
    let prompt = folder.path().join("p.txt");
    fs::write(&prompt, "A trait is").expect("written");
    // By another path to the same file, too.
    let again = folder.path().join("./p.txt");
    let said = stderr(&["generate", "--prompt-file", text(&prompt), "--save-state", text(&again), "-n", "1"]);
    assert!(said.contains("would be written over") && said.contains("p.txt"), "{said}");
    for (command, option) in
        [(&["op", "window", "--params", "{\"left\": 1}"][..], "--inputs"), (&["forward"], "--tokens")]
    {
        let said = stderr(&[command, &[option, text(&prompt), "--out", text(&again)]].concat());
        assert!(said.contains("would be written over"), "{said}");
    }
    assert_eq!(fs::read_to_string(&prompt).expect("the prompt"), "A trait is");
}

/// A folder of the built-in model, which has a tokenizer.
fn built_in(to: &Path, generation: Value) {
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/default"), to);
    fs::write(to.join("generation_config.json"), generation.to_string()).expect("written");
}

#[test]
fn a_generation_config_is_honoured_and_options_are_stronger() {
    let folder = tempfile::tempdir().expect("a directory");
    let generate = |generation: Value, more: &[&str]| {
        built_in(folder.path(), generation);
        let base = ["generate", "-m", text(folder.path()), "--prompt", "A trait is"];
        stdout(&[&base[..], more].concat())
    };
    let greedy = generate(json!({}), &["--temperature", "0", "-n", "12"]);
    assert_eq!(generate(json!({"do_sample": false, "max_new_tokens": 12}), &[]), greedy);
    assert_eq!(generate(json!({"temperature": 1.5, "top_k": 1}), &["-n", "12"]), greedy, "one token to choose from");
    assert_ne!(generate(json!({"do_sample": false}), &["-n", "12", "--temperature", "1.5", "--seed", "1"]), greedy);
    built_in(folder.path(), json!({"num_beams": 4}));
    let said = stderr(&["generate", "-m", text(folder.path()), "--prompt", "A", "-n", "1"]);
    assert!(said.contains("note:") && said.contains("num_beams"), "{said}");
}

#[test]
fn a_text_that_reaches_the_last_position_ends_there_with_its_state() {
    let folder = tempfile::tempdir().expect("a directory");
    copy(&golden("gpt2-a"), folder.path());
    let config: Value =
        serde_json::from_slice(&fs::read(folder.path().join("config.json")).expect("a file")).expect("JSON");
    let (rows, positions) =
        (config["vocab_size"].as_u64().expect("a size"), config["n_positions"].as_u64().expect("a size"));
    // A vocabulary of whole words, one a token.
    let vocab: serde_json::Map<String, Value> = (0..rows).map(|i| (format!("w{i}"), json!(i))).collect();
    let tokenizer = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"}});
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).expect("written");
    let state = folder.path().join("x.state");
    let args = [
        "generate",
        "-m",
        text(folder.path()),
        "--prompt",
        "w1 w2",
        "-n",
        "9999",
        "--ignore-eos",
        "--save-state",
        text(&state),
    ];
    let said = stderr(&args);
    assert!(said.contains(&format!("positions for {positions} tokens")), "{said}");
    assert!(state.is_file() && said.contains(&format!("wrote {}", positions - 2)), "{said}");
}
