//! Bad input is answered in one line that names it, with exit status 2 and nothing half written.

use std::fs;
use std::path::Path;

use crate::{golden, longreach, run, text};

/// The one line a refused call says.
#[track_caller]
fn refused(args: &[&str], parts: &[&str]) {
    let output = run(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
    assert!(output.stdout.is_empty(), "{args:?}");
    for part in parts {
        assert!(said.contains(part), "{args:?}: `{part}` is not in: {said}");
    }
}

/// A copy of a golden checkpoint, to be spoilt.
fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a directory");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(golden(name).join(file), folder.path().join(file)).expect("copied");
    }
    folder
}

/// Replaces text in `config.json`.
fn edit(folder: &Path, from: &str, to: &str) {
    let file = folder.join("config.json");
    let config = fs::read_to_string(&file).expect("a configuration");
    assert!(config.contains(from), "{config}");
    fs::write(&file, config.replace(from, to)).expect("written");
}

/// The header of a safetensors file as JSON, and the bytes behind it.
fn header(file: &Path) -> (serde_json::Value, Vec<u8>) {
    let bytes = fs::read(file).expect("a checkpoint");
    let n = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    (serde_json::from_slice(&bytes[8..8 + n]).expect("JSON"), bytes[8 + n..].to_vec())
}

fn write_header(file: &Path, header: &serde_json::Value, data: &[u8]) {
    let header = header.to_string().into_bytes();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend(data);
    fs::write(file, bytes).expect("written");
}

#[test]
fn paths_that_lead_nowhere() {
    refused(&["warm", "/no/such/model"], &["/no/such/model", "no such file or directory"]);
    refused(&["info", "/no/such/model"], &["/no/such/model", "no such file or directory"]);
    refused(&["info", "owner/name"], &["owner/name", "config.json", "HF_HUB_OFFLINE"]);
    refused(&["generate", "--prompt-file", "/no/such/prompt"], &["/no/such/prompt", "No such file"]);
    refused(&["generate", "--load-state", "/no/such/state"], &["/no/such/state", "No such file"]);
    refused(&["train", "/no/such.toml"], &["/no/such.toml", "No such file"]);
    let folder = tempfile::tempdir().expect("a directory");
    refused(&["info", text(folder.path())], &["config.json", "no such file"]);
}

#[test]
fn configurations_that_do_not_fit() {
    let name = "mamba2-a";
    for (from, to, parts) in [
        (
            "\"model_type\": \"mamba2\"",
            "\"model_type\": \"t5\"",
            &["config.json", "t5", "mamba, mamba2, falcon_mamba"][..],
        ),
        ("\"model_type\": \"mamba2\"", "\"other\": 1", &["config.json", "`model_type` is missing"]),
        ("\"state_size\": ", "\"state_size\": -", &["config.json", "`state_size`", "want a positive integer, found -"]),
        ("\"state_size\": ", "\"state_size\": 99999999999", &["config.json", "`state_size`"]),
        ("\"n_groups\": ", "\"n_groups\": 7, \"was\": ", &["config.json", "`n_groups`"]),
        ("\"num_heads\": ", "\"num_heads\": 10", &["config.json", "`num_heads`", "`hidden_size`"]),
        ("{", "", &["config.json", "not JSON"]),
        ("\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", &["config.json", "`hidden_act`", "gelu"]),
    ] {
        let folder = copy(name);
        edit(folder.path(), from, to);
        refused(&["info", text(folder.path())], parts);
    }
    let folder = copy(name);
    fs::write(folder.path().join("config.json"), b"{\"model_type\": \"\xff\"}").expect("written");
    refused(&["info", text(folder.path())], &["config.json", "not UTF-8"]);
}

#[test]
fn checkpoints_that_lie() {
    let folder = copy("mamba-a");
    let file = folder.path().join("model.safetensors");
    let whole = fs::read(&file).expect("a checkpoint");
    let (good, data) = header(&file);
    let tensor = "backbone.layers.0.mixer.in_proj.weight";
    let args = ["info", text(folder.path())];

    fs::write(&file, &whole[..whole.len() - 100]).expect("written");
    refused(&args, &["model.safetensors"]);
    fs::write(&file, &whole[..5]).expect("written");
    refused(&args, &["model.safetensors", "not a safetensors file"]);
    fs::write(&file, []).expect("written");
    refused(&args, &["model.safetensors"]);
    let mut long = whole.clone();
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&file, long).expect("written");
    refused(&args, &["model.safetensors", "not a safetensors file"]);

    let mut wrong = good.clone();
    let shape = wrong[tensor]["shape"].clone();
    wrong[tensor]["shape"] = serde_json::json!([shape[1], shape[0]]);
    write_header(&file, &wrong, &data);
    refused(
        &args,
        &[
            "model.safetensors",
            tensor,
            &format!("want [{}, {}], found [{}, {}]", shape[0], shape[1], shape[1], shape[0]),
        ],
    );

    let mut wrong = good.clone();
    let moved = wrong[tensor].clone();
    wrong.as_object_mut().expect("an object").remove(tensor);
    wrong["elsewhere"] = moved;
    write_header(&file, &wrong, &data);
    refused(&args, &["model.safetensors", tensor, "missing"]);

    let mut wrong = good.clone();
    wrong[tensor]["data_offsets"] = serde_json::json!([0, 64]);
    write_header(&file, &wrong, &data);
    refused(&args, &["model.safetensors", "not a safetensors file"]);

    let mut wrong = good.clone();
    wrong[tensor]["dtype"] = "I32".into();
    write_header(&file, &wrong, &data);
    refused(&args, &["model.safetensors", tensor, "I32"]);

    fs::remove_file(&file).expect("removed");
    refused(&args, &["has no weights", "model.safetensors, model.safetensors.index.json, pytorch_model.bin"]);
    fs::write(folder.path().join("pytorch_model.bin"), []).expect("written");
    refused(&args, &["pytorch_model.bin", "this file is empty"]);
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, "{\"weight_map\": {\"a\": \"../../etc/passwd\"}}").expect("written");
    refused(&args, &["model.safetensors.index.json", "weight_map", "want a file name"]);
    fs::write(&index, "{\"weight_map\": {\"a\": \"one.safetensors\"}}").expect("written");
    refused(&args, &["one.safetensors", "No such file"]);
}

#[test]
fn prompts_that_are_no_text() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("prompt.txt");
    refused(&["generate", "--prompt", ""], &["the prompt is empty"]);
    fs::write(&file, "").expect("written");
    refused(&["generate", "--prompt-file", text(&file)], &["prompt.txt", "the prompt is empty"]);
    fs::write(&file, b"good \xff bad").expect("written");
    refused(&["generate", "--prompt-file", text(&file)], &["prompt.txt", "not UTF-8 at byte 5"]);
    refused(&["generate", "--prompt-file", text(folder.path())], &[text(folder.path()), "directory"]);
    refused(&["generate", "--model", text(&golden("mamba-a")), "--prompt", "x"], &["no tokenizer.json"]);
}

#[test]
fn options_that_make_no_sense() {
    refused(&["generate", "--temperature", "-1"], &["temperature", "at least 0", "found -1"]);
    refused(&["generate", "--top-p", "0"], &["top-p", "found 0"]);
    refused(&["generate", "--min-p", "2"], &["min-p", "found 2"]);
    refused(&["generate", "--repetition-penalty", "0"], &["repetition-penalty"]);
    let output = longreach(&["list"]).env("LONGREACH_ISA", "mmx").output().expect("the program starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("`mmx` is not available here"));
}

#[test]
fn tokens_that_do_not_fit() {
    let folder = tempfile::tempdir().expect("a directory");
    let (file, out) = (folder.path().join("t.json"), folder.path().join("out.safetensors"));
    let model = golden("mamba-a");
    for (content, parts) in [
        ("{\"input_ids\": [[1, 4000000]]}", &["t.json", "row 0", "4000000 is out of range"][..]),
        ("{\"input_ids\": [[1, 2], [3]]}", &["t.json", "row 1", "want 2 tokens, found 1"]),
        ("{\"input_ids\": []}", &["t.json", "empty"]),
        ("{\"input_ids\": [[1, -2]]}", &["t.json", "-2"]),
        ("{\"input_ids\": [[1, 2]], \"attention_mask\": [[1]]}", &["t.json", "attention_mask"]),
        ("{\"ids\": 1}", &["t.json", "ids"]),
        ("[", &["t.json"]),
    ] {
        fs::write(&file, content).expect("written");
        refused(&["forward", "--model", text(&model), "--tokens", text(&file), "--out", text(&out)], parts);
        assert!(!out.exists(), "{content}");
    }
    fs::write(&file, "{\"input_ids\": [[1, 2]]}").expect("written");
    let nowhere = folder.path().join("no/out.safetensors");
    refused(
        &["forward", "--model", text(&model), "--tokens", text(&file), "--out", text(&nowhere)],
        &["no/out.safetensors", "its directory does not exist"],
    );
}

#[test]
fn states_of_another_model_or_cut_short() {
    let folder = tempfile::tempdir().expect("a directory");
    let state = folder.path().join("a.state");
    let saved = run(&["generate", "--prompt", "A trait", "-n", "2", "--dtype", "f32", "--save-state", text(&state)]);
    assert!(saved.status.success());
    refused(
        &["generate", "--load-state", text(&state), "--dtype", "bf16"],
        &["a.state", "another model", "fingerprint"],
    );
    let whole = fs::read(&state).expect("saved");
    for keep in [0, 4, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&state, &whole[..keep]).expect("written");
        refused(&["generate", "--load-state", text(&state), "--dtype", "f32"], &["a.state"]);
    }
    let (mut wrong, data) = {
        fs::write(&state, &whole).expect("written");
        header(&state)
    };
    wrong["__metadata__"]["format"] = "another 9".into();
    write_header(&state, &wrong, &data);
    refused(&["generate", "--load-state", text(&state), "--dtype", "f32"], &["a.state", "format", "another 9"]);
}

#[cfg(unix)]
#[test]
fn a_disk_that_is_full_leaves_the_old_file() {
    let folder = tempfile::tempdir().expect("a directory");
    let state = folder.path().join("a.state");
    fs::write(&state, "the old state").expect("written");
    // A limit of the size of files stands in for the disk's end: writing beyond it fails the same way.
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" generate --prompt A -n 2 --save-state \"$1\"";
    let output = std::process::Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_longreach"), text(&state)])
        .output()
        .expect("bash starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("a.state") && said.contains("File too large"), "{said}");
    assert_eq!(fs::read_to_string(&state).expect("still there"), "the old state");
    assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 1, "nothing half written is left");
}
