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

#[test]
fn speculation_and_stops_are_those_of_generate_and_numbers_are_printed() {
    let folder = tempfile::tempdir().expect("a directory");
    let model = model(folder.path(), TEMPLATE);
    let args = ["chat", "--model", text(&model), "-n", "20", "--seed", "2"];
    let (plain, said, ok) = piped(&args, "What is a trait?");
    assert!(ok, "{said}");
    let (answer, said, ok) = piped(&[&args[..], &["--speculate", "lookup", "--verbose"]].concat(), "What is a trait?");
    assert!(ok && said.contains(" tokens and wrote 20 in ") && said.contains(" proposed tokens)"), "{said}");
    assert_eq!(answer, plain);
    let stop: String = plain.trim_end().chars().skip(4).take(3).collect();
    let (answer, said, ok) = piped(&[&args[..], &["--stop", &stop]].concat(), "What is a trait?");
    assert!(ok && !said.contains("cut after"), "{said}");
    assert_eq!(answer.trim_end_matches('\n'), &plain[..plain.find(&stop).expect("it is there")]);
}

/// Of a model that thinks, standard output has the answer alone.
#[test]
fn a_pipe_has_the_answer_without_thoughts() {
    let folder = tempfile::tempdir().expect("a directory");
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: <think>{# </think> #}";
    let model = model(folder.path(), template);
    let (answer, said, ok) = piped(&["chat", "--model", text(&model), "-n", "5"], "What is a trait?");
    assert!(ok, "{said}");
    assert_eq!(answer, "\n");
}

/// A second conversation that begins in the same way goes on from the states of the first, and with the same answers.
#[test]
fn a_conversation_is_found_again_in_a_directory_of_states() {
    let folder = tempfile::tempdir().expect("a directory");
    let model = model(folder.path(), TEMPLATE);
    let states = folder.path().join("states");
    let system = "Be brief. ".repeat(40);
    let args = ["chat", "--model", text(&model), "--system", &system, "-n", "8", "--temperature", "0", "--verbose"];
    let kept = [&args[..], &["--cache-dir", text(&states)]].concat();
    let (want, first) = (piped(&args, "What is a trait?\n"), piped(&kept, "What is a trait?\n"));
    let second = piped(&kept, "What is a trait?\n");
    assert!(first.2 && second.2, "{}", second.1);
    assert_eq!([&want.0, &want.0], [&first.0, &second.0]);
    let read = |said: &str| said.lines().find(|line| line.contains("read ")).expect("a line of numbers").to_owned();
    assert!(!read(&first.1).contains("read 0 "), "{}", first.1);
    assert!(read(&second.1).contains("read 0 "), "{}", second.1);
}
