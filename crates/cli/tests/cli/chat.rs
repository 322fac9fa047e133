use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::{longreach, run, text};

/// The built-in model with a chat template, in a folder.
pub(crate) fn model(folder: &Path, template: &str) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/default");
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(from.join(file), folder.join(file)).expect("copied");
    }
    std::fs::write(folder.join("chat_template.jinja"), template).expect("written");
    folder.to_owned()
}

pub(crate) const TEMPLATE: &str = "{% if messages[0].role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}\
    {% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:";

/// The standard output and error of `chat` with `input` from a pipe, and whether it succeeded.
fn piped(args: &[&str], input: &str) -> (String, String, bool) {
    let mut child = longreach(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("output");
    let said = String::from_utf8(output.stderr).expect("text");
    (String::from_utf8(output.stdout).expect("text"), said, output.status.success())
}

#[test]
fn piped_input_is_one_message() {
    let folder = tempfile::tempdir().expect("a directory");
    let model = model(folder.path(), TEMPLATE);
    let options = ["-n", "10", "--temperature", "0"];
    let args = [&["chat", "--model", text(&model), "--system", "Be brief."], &options[..]].concat();
    let (answer, said, ok) = piped(&args, "What is a trait?\nAnd a lifetime?\n");
    assert!(ok, "{said}");
    assert!(said.contains("cut after 10 tokens: -n sets"), "{said}");
    // The same text, as the template writes it.
    let prompt = "system: Be brief.\nuser: What is a trait?\nAnd a lifetime?\nassistant:";
    let generate = [&["generate", "--model", text(&model), "--prompt", prompt], &options[..]].concat();
    let whole = String::from_utf8(run(&generate).stdout).expect("text");
    assert_eq!(answer.trim_end(), whole.trim_end());
}

#[test]
fn what_cannot_be_talked_to_says_so() {
    let folder = tempfile::tempdir().expect("a directory");
    let (_, said, ok) = piped(&["chat"], "Hi\n");
    assert!(!ok && said.contains("the embedded model has no chat template"), "{said}");
    let model = model(folder.path(), "{{ raise_exception('only for machines') }}");
    let (_, said, ok) = piped(&["chat", "--model", text(&model)], "Hi\n");
    assert!(!ok && said.contains("chat_template.jinja: only for machines"), "{said}");
    let (_, said, ok) = piped(&["chat", "--model", text(&model)], " \n");
    assert!(!ok && said.contains("standard input is empty"), "{said}");
}
