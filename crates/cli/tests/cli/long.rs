//! Long documents as jobs: questions, summaries, scores, and windows of a model of full attention.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};

use super::{golden, longreach, run, stdout, text};
use crate::chat::{TEMPLATE, model};

#[track_caller]
fn refused(args: &[&str], parts: &[&str]) {
    let output = run(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = said.trim_end().lines().last().unwrap_or_default().to_owned();
    assert!(!output.status.success(), "{args:?} succeeded");
    assert!(parts.iter().all(|part| last.contains(part)), "{args:?}: {said}");
}

/// What a successful run says on standard error.
#[track_caller]
fn stderr(args: &[&str]) -> String {
    let output = run(args);
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{args:?}: {said}");
    said
}

/// `llama-a`, which was trained for 128 tokens, with a vocabulary of whole words: `w1`, `w2` and so on.
pub(crate) fn words(folder: &Path) -> PathBuf {
    let to = folder.join("words");
    fs::create_dir_all(&to).expect("a folder");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(golden("llama-a").join(file), to.join(file)).expect("copied");
    }
    let vocab: serde_json::Map<String, Value> = (0..67).map(|i| (format!("w{i}"), json!(i))).collect();
    let tokenizer = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"}});
    fs::write(to.join("tokenizer.json"), tokenizer.to_string()).expect("written");
    to
}

/// A text of `n` words of that vocabulary, in sentences of ten.
fn words_text(n: usize) -> String {
    (0..n).map(|i| format!("w{}{}", i % 60 + 1, if i % 10 == 9 { ".\n" } else { " " })).collect()
}

fn encoder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/goldens").join(name)
}

/// A folder of three texts, of which the second says something about lighthouses.
fn library(folder: &Path) -> PathBuf {
    let library = folder.join("library");
    fs::create_dir_all(&library).expect("a folder");
    let text =
        |what: &str| format!("The {what} is old. It stands by the road.\n\nNobody knows who built the {what}.\n");
    fs::write(library.join("a.txt"), text("bridge")).expect("written");
    fs::write(library.join("b.txt"), format!("# A light\n\n{}The keeper Ada lit it.\n", text("lighthouse")))
        .expect("written");
    fs::write(library.join("c.txt"), text("mill")).expect("written");
    library
}

#[test]
fn a_kept_state_gives_the_same_answers_without_reading() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = words(folder.path());
    fs::write(model.join("chat_template.jinja"), TEMPLATE).expect("written");
    let book = folder.path().join("book.txt");
    fs::write(&book, words_text(60)).expect("written");
    let cache = folder.path().join("book.state");
    let base = ["ask", "-m", text(&model), "-i", text(&book), "-n", "12", "--temperature", "0"];
    let fresh = |question: &str| stdout(&[&base[..], &[question]].concat());
    let kept = |question: &str| {
        let output = run(&[&base[..], &["--cache", text(&cache), question]].concat());
        (String::from_utf8(output.stdout).expect("text"), String::from_utf8(output.stderr).expect("text"))
    };
    let (first, said) = kept("w9 w30");
    assert_eq!(first, fresh("w9 w30"));
    assert!(!said.contains("not read again"), "{said}");
    let (second, said) = kept("w41");
    assert_eq!(second, fresh("w41"));
    assert!(said.contains("not read again"), "{said}");
    assert_ne!(first, second);
    fs::write(&book, words_text(59)).expect("written");
    let (third, said) = kept("w41");
    assert_eq!(third, fresh("w41"));
    assert!(said.contains("it was replaced"), "{said}");
    refused(&[&base[..], &["--cache", text(&book), "Why?"]].concat(), &["is an input"]);
}

#[test]
fn an_answer_from_passages_names_their_places() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, library) = (model(folder.path(), TEMPLATE), library(folder.path()));
    let base = ["ask", "-m", text(&model), "-i", text(&library), "-n", "4", "--temperature", "0", "--passage", "16"];
    let said = stdout(&[&base[..], &["--passages", "2", "Which keeper lit it?"]].concat());
    let list: Vec<&str> = said.lines().filter(|line| line.starts_with('[')).collect();
    let b = library.join("b.txt");
    assert_eq!(list.len(), 2, "{said}");
    assert!(list[0].contains(text(&b)) && (list[0].ends_with(":6") || list[0].ends_with("–6")), "{said}");
    for name in ["st-bert-mean", "colbert"] {
        let encoder = encoder(name);
        let args = ["--json", "--encoder", text(&encoder), "--passages", "3", "the mill"];
        let object: Value = serde_json::from_str(&stdout(&[&base[..], &args].concat())).expect("JSON");
        let passages = object["passages"].as_array().expect("a list");
        assert_eq!(passages.len(), 3, "{name}");
        let scores: Vec<f64> = passages.iter().map(|passage| passage["score"].as_f64().expect("a score")).collect();
        assert!(scores.windows(2).all(|pair| pair[0] >= pair[1]), "{scores:?}");
        for passage in passages {
            let file = fs::read_to_string(passage["file"].as_str().expect("a file")).expect("a text");
            let bytes = passage["start"].as_u64().expect("a number") as usize
                ..passage["end"].as_u64().expect("a number") as usize;
            assert_eq!(file[bytes.clone()], *passage["text"].as_str().expect("a text"));
            let line = file[..bytes.start].matches('\n').count() + 1;
            assert_eq!(passage["first_line"].as_u64(), Some(line as u64));
        }
    }
}

#[test]
fn a_text_beyond_the_context_is_answered_from_passages_or_through_a_window() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = words(folder.path());
    let book = folder.path().join("book.txt");
    fs::write(&book, words_text(400)).expect("written");
    let base = ["ask", "-m", text(&model), "-i", text(&book), "-n", "8", "--passage", "20", "w33 w34"];
    let output = run(&base);
    let (answer, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("the model reads 128: it answers from passages"), "{said}");
    // The words are on the fourth line of each sixty words: lines 4, 10, 16 and so on.
    let first = answer.lines().find(|line| line.starts_with("[1]")).expect("a list");
    let lines = first.rsplit_once(':').expect("lines").1;
    assert!(lines.split('–').any(|line| line.parse::<u32>().is_ok_and(|line| line % 6 == 4)), "{answer}");
    let cache = folder.path().join("x.state");
    refused(&[&base[..], &["--cache", text(&cache)]].concat(), &["--cache", "the model reads 128", "--window"]);
    let through = stdout(&[&base[..], &["--window", "60"]].concat());
    assert!(!through.contains("[1]"), "{through}");
    // The same choices for `generate`.
    let generate = ["generate", "-m", text(&model), "--prompt-file", text(&book), "-n", "5", "--temperature", "0"];
    refused(&generate, &["trained for 128", "--window 64 --sinks 4", "--extrapolate"]);
    assert!(stderr(&[&generate[..], &["--window", "60"]].concat()).contains("read 4"));
    assert!(stderr(&[&generate[..], &["--extrapolate"]].concat()).contains("read 4"));
    refused(&[&generate[..], &["--window", "125"]].concat(), &["129 positions", "trained for 128"]);
    refused(&["generate", "--window", "9", "--prompt", "A"], &["built-in model", "any length"]);
    let info = stdout(&["info", text(&model)]);
    assert!(info.contains("context        128 tokens"), "{info}");
}

#[test]
fn what_cannot_be_asked_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let (blank, empty) = (folder.path().join("blank.txt"), folder.path().join("empty"));
    fs::write(&blank, " \n\n").expect("written");
    fs::create_dir(&empty).expect("a folder");
    refused(&["ask", "-i", text(&blank), "  "], &["the question is empty"]);
    // A table without texts is no reason not to read the others.
    let tables = folder.path().join("tables");
    fs::create_dir(&tables).expect("a folder");
    fs::write(tables.join("numbers.csv"), "a,b\n1,2\n").expect("written");
    refused(&["ask", "-i", text(&tables), "Why?"], &["no text found"]);
    fs::write(tables.join("texts.csv"), "a,text\n1,w3 w4.\n").expect("written");
    let model = words(folder.path());
    let args = ["ask", "-m", text(&model), "-i", text(&tables), "-n", "2", "--passages", "1", "w4"];
    let said = stderr(&args);
    assert!(said.contains("--column names one): 1; skipped"), "{said}");
    assert!(stdout(&args).contains("texts.csv:2"), "{}", stdout(&args));
    for input in [&blank, &empty] {
        refused(&["ask", "-i", text(input), "Why?"], &["no text found", text(input)]);
        refused(&["summarise", text(input)], &["no text found", text(input)]);
    }
    refused(&["ask", "-i", "nowhere.txt", "Why?"], &["nowhere.txt"]);
    let bare = folder.path().join("pictures.pdf");
    fs::write(&bare, "%PDF-1.4").expect("written");
    refused(&["ask", "-i", text(&bare), "Why?"], &["PDF"]);
}

/// Arguments of a summary of many short pieces.
fn summary<'a>(model: &'a Path, book: &'a Path, work: &'a Path) -> Vec<&'a str> {
    let mut args = vec!["summarise", "-m", text(model), text(book), "--work", text(work), "--json"];
    args.extend(["--piece", "30", "--words", "3", "-n", "12", "--seed", "3", "--temperature", "0.8"]);
    args
}

#[test]
fn a_summary_that_was_killed_continues_to_the_same_result() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = words(folder.path());
    fs::write(model.join("chat_template.jinja"), TEMPLATE).expect("written");
    let (book, work) = (folder.path().join("book.txt"), folder.path().join("book.partial"));
    fs::write(&book, words_text(800)).expect("written");
    let args = summary(&model, &book, &work);
    let whole = stdout(&args);
    assert!(!work.exists(), "the work is removed at the end");
    let levels: Value = serde_json::from_str(&whole).expect("JSON");
    let sizes: Vec<usize> =
        levels["levels"].as_array().expect("levels").iter().map(|l| l.as_array().map_or(0, Vec::len)).collect();
    assert!(sizes[0] >= 8 && sizes.len() >= 2 && sizes.last() == Some(&1), "{sizes:?}");
    assert!(sizes.windows(2).all(|pair| pair[0] > pair[1]), "{sizes:?}");
    let mut child = longreach(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    while !work.exists() && child.try_wait().expect("a child").is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
    assert!(work.exists(), "the program ended before it was killed");
    refused(&[&args[..], &["--prompt", "List the names."]].concat(), &["other options", "--work"]);
    let output = run(&args);
    assert!(String::from_utf8_lossy(&output.stderr).contains("continuing with"), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).expect("text"), whole);
    fs::write(&work, "a letter").expect("written");
    refused(&args, &["not the work of a summary"]);
    assert_eq!(fs::read(&work).expect("a file"), b"a letter");
}

#[test]
fn a_piece_that_does_not_fit_into_the_context_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = words(folder.path());
    let (book, work) = (folder.path().join("book.txt"), folder.path().join("book.partial"));
    fs::write(&book, words_text(400)).expect("written");
    let args = ["summarise", "-m", text(&model), text(&book), "--work", text(&work)];
    refused(&[&args[..], &["--words", "60"]].concat(), &["the model reads 128 tokens", "--words"]);
    refused(&[&args[..], &["--words", "5", "--piece", "100"]].concat(), &["--piece 100", "room for"]);
}

#[test]
fn sentences_are_chosen_once_and_printed_in_order_with_their_places() {
    let folder = tempfile::tempdir().expect("a folder");
    let book = folder.path().join("book.txt");
    let lines = [
        "# Lights",
        "The lighthouse was built on the rock.",
        "The lighthouse was built on the rock.",
        "A keeper lived there with two goats.",
        "Too short.",
        "Ships pass the rock every day\nand every night.",
        "The lighthouse was built on the rock.",
    ];
    fs::write(&book, lines.join("\n\n")).expect("written");
    let model = encoder("st-bert-mean");
    let args = ["summarise", "--encoder", text(&model), text(&book)];
    let all = stdout(&[&args[..], &["--words", "23"]].concat());
    let found: Vec<&str> = all.lines().collect();
    // Seven words, seven and nine: the sentence that repeats is worth less than one that is new.
    assert_eq!(found.len(), 3, "{all}");
    assert_eq!(all.matches("built on the rock").count(), 1, "{all}");
    assert!(
        found[2].starts_with("Ships pass the rock every day and every night.") && found[2].ends_with("book.txt:11–12)"),
        "{all}"
    );
    let places: Vec<Value> = stdout(&[&args[..], &["--words", "23", "--json"]].concat())
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert!(places.windows(2).all(|pair| pair[0]["start"].as_u64() < pair[1]["start"].as_u64()));
    // At least one sentence, and no more words than asked for beyond it.
    assert_eq!(stdout(&[&args[..], &["--words", "1"]].concat()).lines().count(), 1);
    let colbert = encoder("colbert");
    refused(&["summarise", "--encoder", text(&colbert), text(&book)], &["one vector per token"]);
    refused(&[&args[..], &["--diversity", "2"]].concat(), &["--diversity", "found 2"]);
}

#[test]
fn a_score_is_the_same_in_every_form() {
    let folder = tempfile::tempdir().expect("a folder");
    let (a, b, plot) = (folder.path().join("a.txt"), folder.path().join("b.txt"), folder.path().join("x.svg"));
    fs::write(&a, "A trait is a set of methods. ".repeat(9)).expect("written");
    fs::write(&b, "Ownership is not a trait.").expect("written");
    let base = ["score", text(&a), text(&b)];
    let lines: Vec<Value> = stdout(&[&base[..], &["--json", "--plot", text(&plot)]].concat())
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let [first, second, sum] = &lines[..] else { panic!("{lines:?}") };
    let number = |object: &Value, name: &str| object[name].as_f64().expect("a number");
    for object in &lines {
        let loss = number(object, "nats") / number(object, "tokens");
        assert!((number(object, "perplexity") - loss.exp()).abs() < 1e-9);
        let bits = number(object, "nats") / std::f64::consts::LN_2 / number(object, "bytes");
        assert!((number(object, "bits_per_byte") - bits).abs() < 1e-9);
    }
    assert!((number(sum, "nats") - number(first, "nats") - number(second, "nats")).abs() < 1e-9);
    assert_eq!(sum["files"], 2);
    let table = stdout(&base);
    for object in [first, second] {
        assert!(table.contains(&format!("{:.4}", number(object, "perplexity"))), "{table}");
    }
    let csv = stdout(&[&base[..], &["--csv"]].concat());
    assert!(csv.contains(&format!("\"{}\",,,{},", text(&b), second["tokens"])), "{csv}");
    let svg = fs::read_to_string(&plot).expect("a plot");
    assert!(svg.starts_with("<svg") && svg.contains("tokens before") && svg.contains("b.txt"));
    let positions = first["positions"].as_array().expect("positions");
    assert_eq!((positions[0]["from"].as_u64(), positions[0]["to"].as_u64()), (Some(1), Some(15)));
    assert_eq!(
        positions.iter().filter_map(|p| p["tokens"].as_u64()).sum::<u64>(),
        first["tokens"].as_u64().expect("a number")
    );
    let short: Value = serde_json::from_str(&stdout(&["score", text(&a), "--json", "--context", "8"])).expect("JSON");
    assert_eq!((short["context"].as_u64(), short["stride"].as_u64()), (Some(8), Some(4)));
    assert_eq!(short["tokens"], first["tokens"]);
    assert_ne!(short["nats"], first["nats"]);
    refused(&["score", text(&a), "--stride", "4"], &["--stride", "--context"]);
    refused(&["score", text(&a), "--context", "4", "--stride", "4"], &["stride of 4"]);
}

#[test]
fn a_text_beyond_the_context_is_scored_in_windows() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = words(folder.path());
    let book = folder.path().join("book.txt");
    fs::write(&book, words_text(400)).expect("written");
    let base = ["score", "-m", text(&model), text(&book), "--json"];
    let score = |more: &[&str]| -> Value { serde_json::from_str(&stdout(&[&base[..], more].concat())).expect("JSON") };
    let own = score(&[]);
    assert_eq!((own["context"].as_u64(), own["stride"].as_u64()), (Some(128), Some(64)));
    let tokens = own["tokens"].as_u64().expect("a number");
    assert!(tokens > 400, "{own}");
    for more in [&["--context", "100", "--stride", "7"][..], &["--window", "50"], &["--extrapolate"]] {
        let other = score(more);
        assert_eq!(other["tokens"].as_u64(), Some(tokens), "{more:?}");
        assert_ne!(other["nats"], own["nats"], "{more:?}");
    }
    refused(&[&base[..], &["--context", "129"]].concat(), &["129", "128"]);
}
