//! Models between directories and GGUF files, and what fewer bits cost.

use std::fs;
use std::path::{Path, PathBuf};

use longreach_gguf::{Gguf, Tensor};
use longreach_models::gguf::importances;
use serde_json::{Map, Value, json};

use super::{golden, run, stdout, text};

/// Byte-level byte-pair encoding of small letters and spaces.
fn tokenizer() -> Value {
    let letters = ('a'..='z').map(String::from).chain(["Ġ".to_owned()]);
    let pairs = [("t", "h"), ("th", "e"), ("Ġ", "a"), ("i", "n"), ("Ġ", "the")];
    let words = letters.chain(pairs.iter().map(|(left, right)| format!("{left}{right}")));
    let vocabulary: Map<String, Value> = ["<s>".to_owned(), "</s>".to_owned()]
        .into_iter()
        .chain(words)
        .enumerate()
        .map(|(id, text)| (text, json!(id)))
        .collect();
    let special = |id: u32, text: &str| json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(0, "<s>"), special(1, "</s>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "unk_token": null, "vocab": vocabulary, "merges": pairs},
    })
}

/// A golden checkpoint with a tokenizer and a chat template.
fn model(folder: &Path) -> PathBuf {
    let to = folder.join("model");
    fs::create_dir(&to).expect("a directory");
    for name in ["config.json", "model.safetensors"] {
        fs::copy(golden("llama-a").join(name), to.join(name)).expect("copied");
    }
    fs::write(to.join("tokenizer.json"), tokenizer().to_string()).expect("written");
    let settings = json!({"bos_token": "<s>", "eos_token": "</s>"});
    fs::write(to.join("tokenizer_config.json"), settings.to_string()).expect("written");
    fs::write(to.join("chat_template.jinja"), "{{ messages[0].content }}").expect("written");
    to
}

fn measured(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(args)).expect("JSON")
}

const TEXT: &str = "the thing in the ant and a tin in the hat that the cat in the den has eaten ";

#[test]
fn a_model_goes_to_gguf_and_back() {
    let folder = tempfile::tempdir().expect("a directory");
    let from = model(folder.path());
    let (file, back) = (folder.path().join("model.gguf"), folder.path().join("back"));
    stdout(&["convert", text(&from), text(&file)]);
    stdout(&["convert", text(&file), text(&back)]);
    let ids = |at: &Path| stdout(&["tokenize", "--model", text(at), "the thing in a hat"]);
    assert_eq!(ids(&file), ids(&from));
    assert_eq!(ids(&back), ids(&from));
    assert_eq!(fs::read(back.join("chat_template.jinja")).expect("a file"), b"{{ messages[0].content }}");
    let settings: Value =
        serde_json::from_slice(&fs::read(back.join("tokenizer_config.json")).expect("a file")).expect("JSON");
    assert_eq!((&settings["bos_token"], &settings["eos_token"]), (&json!("<s>"), &json!("</s>")));
    let again = run(&["convert", text(&file), text(&back)]);
    assert!(!again.status.success(), "a model is not overwritten");
    let split = folder.path().join("split.gguf");
    stdout(&["convert", text(&from), text(&split), "--split-size", "40K"]);
    assert!(!split.exists());
    let first = fs::read_dir(folder.path()).expect("a directory").flatten().map(|entry| entry.path());
    let first = first.filter(|path| text(path).contains("split-00001-of-")).max().expect("parts");
    let agree =
        measured(&["accuracy", "-m", text(&first), "--against", text(&file), "-i", &input(folder.path()), "--json"]);
    assert_eq!((&agree["kl_max"], &agree["same_top"]), (&json!(0.0), &json!(1.0)));
}

/// A file with a text.
fn input(folder: &Path) -> String {
    let file = folder.join("text.txt");
    fs::write(&file, TEXT.repeat(8)).expect("written");
    text(&file).to_owned()
}

#[test]
fn accuracy_says_what_fewer_bits_cost() {
    let folder = tempfile::tempdir().expect("a directory");
    let (from, text_file) = (model(folder.path()), input(folder.path()));
    let measure = |of: &Path| {
        measured(&["accuracy", "-m", text(of), "--against", text(&from), "-i", &text_file, "--context", "64", "--json"])
    };
    let quantised = |kind: &str, more: &[&str]| {
        let to = folder.path().join(format!("{kind}-{}.gguf", more.len()));
        stdout(&[&["quantize", text(&from), text(&to), "--type", kind], more].concat());
        to
    };
    let same = measure(&quantised("f32", &[]));
    assert!(same["kl_max"].as_f64().expect("a number") < 1e-6, "{same}");
    assert_eq!(same["same_top"], json!(1.0));
    let plain = measured(&["accuracy", "-m", text(&from), "-i", &text_file, "--context", "64", "--json"]);
    assert_eq!(plain["perplexity"], same["against_perplexity"]);
    let cost = |measured: &Value| measured["kl_mean"].as_f64().expect("a number");
    let [eight, four] = ["q8_0", "q4_0"].map(|kind| cost(&measure(&quantised(kind, &[]))));
    assert!(0.0 < eight && eight < four / 4.0, "{eight} {four}");
    let kept = cost(&measure(&quantised("q4_0", &["--keep", "blk.=f32", "--head", "f32"])));
    assert!(kept < four, "{kept} {four}");
}

/// The matrices of layers of a file of floats, by name.
fn matrices(file: &Path) -> Vec<(String, usize, Vec<f32>)> {
    let gguf = Gguf::open(file).expect("a file");
    let floats = |tensor: &Tensor<'_>| tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let of_layers = gguf.tensors().filter(|tensor| tensor.name().starts_with("blk.") && tensor.shape().len() == 2);
    of_layers.map(|tensor| (tensor.name().to_owned(), tensor.shape()[1], floats(&tensor))).collect()
}

#[test]
fn importances_lower_the_error_of_what_the_text_carries() {
    let folder = tempfile::tempdir().expect("a directory");
    let (from, text_file) = (model(folder.path()), input(folder.path()));
    let importance = folder.path().join("importance.gguf");
    stdout(&["importance", "-m", text(&from), "-i", &text_file, text(&importance), "--context", "64"]);
    let exact = folder.path().join("exact.gguf");
    stdout(&["convert", text(&from), text(&exact), "--dtype", "f32"]);
    let carried = importances(&importance).expect("importances");
    let error = |more: &[&str]| {
        let (to, floats) = (folder.path().join("blocks.gguf"), folder.path().join("floats.gguf"));
        stdout(&[&["quantize", text(&from), text(&to), "--type", "iq4_nl"], more].concat());
        stdout(&["convert", text(&to), text(&floats), "--dtype", "f32"]);
        let mut sum = 0.0;
        for ((name, width, x), (_, _, y)) in matrices(&exact).into_iter().zip(matrices(&floats)) {
            let by = carried[&name].iter().cycle();
            assert_eq!(carried[&name].len(), width, "{name}");
            sum += x.iter().zip(&y).zip(by).map(|((x, y), by)| f64::from(by * (x - y).powi(2))).sum::<f64>();
        }
        sum
    };
    let (with, without) = (error(&["--importance", text(&importance)]), error(&[]));
    assert!(with < 0.97 * without, "{with} {without}");
    let wrong = run(&["quantize", text(&from), "x.gguf", "--importance", text(&from.join("model.safetensors"))]);
    assert!(!wrong.status.success());
}

#[test]
fn what_cannot_be_converted_is_said() {
    let folder = tempfile::tempdir().expect("a directory");
    let said = |args: &[&str]| {
        let output = run(args);
        assert!(!output.status.success(), "{args:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    let to = folder.path().join("model.gguf");
    let of = |name: &str| said(&["convert", text(&golden(name)), text(&to)]);
    assert!(of("gla-a").contains("`gla` cannot be written as GGUF"));
    let window = of("qwen2-b");
    assert!(window.contains("cannot express") && window.contains("Window(7)"), "{window}");
    let from = model(folder.path());
    assert!(said(&["convert", text(&from), text(&folder.path().join("other"))]).contains(".gguf"));
    let mut other = tokenizer();
    other["pre_tokenizer"]["add_prefix_space"] = json!(true);
    fs::write(from.join("tokenizer.json"), other.to_string()).expect("written");
    let split = said(&["convert", text(&from), text(&to)]);
    assert!(split.contains("pre_tokenizer"), "{split}");
    assert!(!to.exists());
}
