//! Encoders on the command line: vectors, search, labels, masks, answers, sparse models; and what is wrong is named in one line.

use std::fs;
use std::path::{Path, PathBuf};

use longreach_testkit::goldens::Golden;

use super::{golden, run, stdout, text};

/// A directory as sentence-transformers or PyLate write it.
fn sentences(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/goldens").join(name)
}

/// A golden encoder with a vocabulary of letters beside it.
fn with_letters(folder: &Path, name: &str) -> PathBuf {
    let to = folder.join(name);
    fs::create_dir_all(&to).expect("a directory");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(golden("encoders").join(name).join(file), to.join(file)).expect("copied");
    }
    let letters = ('a'..='z').flat_map(|c| [c.to_string(), format!("##{c}")]);
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(String::from).into_iter().chain(letters);
    fs::write(to.join("vocab.txt"), words.take(50).collect::<Vec<_>>().join("\n")).expect("written");
    to
}

#[track_caller]
fn refused(args: &[&str], part: &str) {
    let output = run(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{args:?} succeeded");
    assert!(said.contains(part) && said.trim_end().lines().count() == 1, "{args:?}: {said}");
}

#[test]
fn vectors_are_those_of_sentence_transformers_in_every_format() {
    let folder = tempfile::tempdir().expect("a directory");
    let model = sentences("st-bert-mean");
    let about: serde_json::Value =
        serde_json::from_slice(&fs::read(model.join("texts.json")).expect("texts")).expect("JSON");
    let texts = about["texts"].as_array().expect("a list");
    let lines: Vec<String> = texts.iter().map(|t| serde_json::json!({"id": 1, "body": t}).to_string()).collect();
    let input = folder.path().join("texts.jsonl");
    fs::write(&input, lines.join("\n")).expect("written");
    let (shape, want) = Golden::read(model.join("expected.safetensors")).floats("vectors.query");
    let out = folder.path().join("v.npy");
    let base = ["embed", "-m", text(&model), "-i", text(&input), "--column", "body", "--long", "truncate"];
    let named = [&base[..], &["--prompt", "query", "-o", text(&out)]].concat();
    let said = String::from_utf8(run(&named).stderr).expect("text");
    assert!(said.contains(&format!("embedded {} documents as {} rows", shape[0], shape[0])), "{said}");
    let bytes = fs::read(&out).expect("vectors");
    let head = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let got: Vec<f32> = bytes[head..].as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(got.len(), want.len());
    assert!(got.iter().zip(&want).all(|(g, w)| (f64::from(*g) - w).abs() < 2e-5));
    let out = folder.path().join("v.jsonl");
    let more = ["--matryoshka", "5", "--pooling", "cls,max", "--normalize=false", "--with-text", "-o", text(&out)];
    stdout(&[&base[..], &more].concat());
    let first: serde_json::Value =
        serde_json::from_str(fs::read_to_string(&out).expect("vectors").lines().next().expect("a line")).expect("JSON");
    assert_eq!((first["vector"].as_array().map(Vec::len), &first["text"]), (Some(5), &texts[0]));
}

#[test]
fn passages_of_a_folder_are_found_with_their_places() {
    let folder = tempfile::tempdir().expect("a directory");
    let documents = folder.path().join("documents");
    fs::create_dir(&documents).expect("a directory");
    fs::write(documents.join("a.txt"), "The quick river flows under the old stone bridge.").expect("written");
    fs::write(documents.join("b.md"), "Yellow trees near the village school in spring.").expect("written");
    for name in ["st-bert-mean", "colbert"] {
        let (model, index) = (sentences(name), folder.path().join(name));
        stdout(&["search", "build", "-m", text(&model), "-i", text(&documents), "-o", text(&index), "--passage", "20"]);
        let query = ["search", "query", "-m", text(&model), "--index", text(&index)];
        let lines = stdout(&[&query[..], &["--json", "The quick river flows under the old stone bridge."]].concat());
        let found: Vec<serde_json::Value> = lines.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
        assert!(found.windows(2).all(|w| w[0]["score"].as_f64() >= w[1]["score"].as_f64()));
        assert!(found.iter().any(|f| f["file"].as_str().is_some_and(|f| f.ends_with("a.txt"))));
        let plain = stdout(&[&query[..], &["-n", "1", "trees"]].concat());
        assert!(plain.contains("bytes 0 to"), "{plain}");
        refused(
            &["search", "build", "-m", text(&model), "-i", text(&documents), "-o", text(&index), "--no-overwrite"],
            "already exists",
        );
    }
    fs::create_dir(folder.path().join("half.partial")).expect("a directory");
    let half = folder.path().join("half");
    let model = sentences("st-bert-mean");
    refused(&["search", "query", "-m", text(&model), "--index", text(&half), "x"], "is not finished");
    let other = folder.path().join("colbert");
    refused(
        &["search", "query", "-m", text(&model), "--index", text(&other), "x"],
        "one vector of 12 dimensions per token",
    );
}

#[test]
fn an_encoder_in_a_gguf_file_is_described_embeds_and_searches() {
    let folder = tempfile::tempdir().expect("a directory");
    let model = golden("gguf/nomic_bert-text.gguf");
    let about = stdout(&["info", text(&model)]);
    assert!(about.contains("30 dimensions: mean pooling, then normalised"), "{about}");
    let (documents, index) = (folder.path().join("texts.txt"), folder.path().join("index"));
    fs::write(&documents, "the long sea\nreaders read\nof the others\n").expect("written");
    stdout(&["search", "build", "-m", text(&model), "-i", text(&documents), "-o", text(&index)]);
    let found = stdout(&["search", "query", "-m", text(&model), "--index", text(&index), "--json", "readers read"]);
    let first: serde_json::Value = serde_json::from_str(found.lines().next().expect("a match")).expect("JSON");
    assert_eq!(first["text"], "readers read", "{found}");
    assert!((first["score"].as_f64().expect("a score") - 1.0).abs() < 1e-5, "{found}");
    refused(&["generate", "-m", text(&model), "-p", "the sea"], "architecture `nomic-bert` is an encoder");
    let other = golden("gguf/llama-a.gguf");
    refused(&["embed", "-m", text(&other), "-i", text(&documents), "-o", "v.npy"], "`llama` is no encoder");
}

#[test]
fn questions_come_from_a_file_and_fields_with_their_answers() {
    let folder = tempfile::tempdir().expect("a directory");
    let (model, at) = (sentences("st-bert-mean"), |name: &str| folder.path().join(name));
    let lines = "{\"text\": \"The quick river\", \"id\": 7}\n{\"text\": \" \", \"id\": 8}\n{\"text\": \"Yellow trees\", \"id\": 9}\n";
    fs::write(at("d.jsonl"), lines).expect("written");
    let (documents, index) = (at("d.jsonl"), at("index"));
    let build = ["search", "build", "-m", text(&model), "-i", text(&documents), "-o", text(&index), "--fields", "id"];
    let said = String::from_utf8(run(&build).stderr).expect("text");
    assert!(
        said.contains("embedded 3 documents as 2 passages") && said.contains("blank documents: 1 (skipped)"),
        "{said}"
    );
    refused(&[&build[..], &["--no-overwrite"]].concat(), "already exists: choose another name");
    let again = run(&[&build[..], &["--similarity", "dot"]].concat());
    let said = String::from_utf8(again.stderr).expect("text");
    assert!(again.status.success() && said.contains("already exists and will be replaced"), "{said}");
    fs::write(at("q.csv"), "n,question\n1,Yellow trees\n2,\n3,The quick river\n").expect("written");
    let questions = at("q.csv");
    let query = ["search", "query", "-m", text(&model), "--index", text(&index), "--queries", text(&questions)];
    let found = stdout(&[&query[..], &["--json", "-n", "1"]].concat());
    let found: Vec<serde_json::Value> = found.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let found: Vec<_> = found.iter().map(|f| (&f["number"], &f["id"], &f["text"])).collect();
    let (zero, two) = (serde_json::json!(0), serde_json::json!(2));
    assert_eq!(found, [(&zero, &"9".into(), &"Yellow trees".into()), (&two, &"7".into(), &"The quick river".into())]);
    refused(
        &[&query[..], &["--dtype", "int8"]].concat(),
        "was built with another `dtype`: \"f32\", but the query uses \"int8\"",
    );
    refused(&[&query[..], &["--pooling", "cls"]].concat(), "was built with another `pooling`");
    // An output is checked before the model is looked for.
    let (nowhere, vectors) = (at("no/v.npy"), at("v.jsonl"));
    refused(&["embed", "-m", "/no/model", "-i", text(&documents), "-o", text(&nowhere)], "cannot access the folder");
    refused(&["embed", "-m", "/no/model", "-i", text(&documents), "-o", text(&documents)], "is the input");
    let embed = ["embed", "-m", text(&model), "-i", text(&documents), "-o", text(&vectors), "--fields", "id"];
    stdout(&embed);
    let written = fs::read_to_string(&vectors).expect("vectors");
    let last: serde_json::Value = serde_json::from_str(written.lines().last().expect("a line")).expect("JSON");
    assert_eq!((&last["row"], &last["id"]), (&two, &"9".into()));
    refused(&[&embed[..], &["--no-overwrite"]].concat(), "already exists: choose another name");
}

#[test]
fn heads_do_what_they_are_for_and_others_are_refused() {
    let folder = tempfile::tempdir().expect("a directory");
    let at = |name: &str| with_letters(folder.path(), name);
    let (words, labels) = (at("bert-masked-lm-a"), at("bert-sequence-a"));
    let (tokens, answers) = (at("bert-token-a"), at("bert-question-a"));
    let filled = stdout(&["fill-mask", "-m", text(&words), "-n", "3", "ab [MASK] c [MASK]"]);
    assert_eq!(filled.lines().count(), 2);
    let line = stdout(&["classify", "-m", text(&labels), "--json", "abc de"]);
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let shares: f64 =
        line["labels"].as_array().expect("labels").iter().map(|l| l["score"].as_f64().unwrap_or(0.0)).sum();
    assert!((shares - 1.0).abs() < 1e-5, "{line}");
    let file = folder.path().join("t.txt");
    fs::write(&file, "abc\nde\n").expect("written");
    assert_eq!(stdout(&["classify", "-m", text(&labels), "-i", text(&file)]).lines().count(), 2);
    let line = stdout(&["classify", "-m", text(&tokens), "--json", "abc de"]);
    assert!(line.contains("\"entities\""), "{line}");
    // A text longer than the model reads, and an answer that lies in it.
    let long = "abc defg hij klm ".repeat(20);
    let args = ["answer", "-m", text(&answers), "--text", &long, "-n", "2", "--overlap", "4", "--json", "who"];
    for line in stdout(&args).lines() {
        let a: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let part = a["start"].as_u64().expect("a place") as usize..a["end"].as_u64().expect("a place") as usize;
        assert_eq!(a["answer"], long[part]);
    }
    refused(
        &["classify", "-m", text(&words), "abc"],
        "has a language model's head; this needs a head that classifies texts",
    );
    refused(&["fill-mask", "-m", text(&labels), "[MASK]"], "this needs a language model's head");
    refused(&["answer", "-m", text(&words), "--text", "abc", "who"], "this needs a head that answers questions");
    refused(&["fill-mask", "-m", text(&words), "no mask here"], "have no [MASK] to be filled");
    refused(&["generate", "-m", text(&words), "--prompt", "x"], "is an encoder");
}

#[test]
fn bad_input_is_named_in_one_line() {
    let folder = tempfile::tempdir().expect("a directory");
    let model = sentences("st-bert-mean");
    let out = folder.path().join("v.npy");
    let embed = |name: &str, bytes: &[u8], more: &[&str], part: &str| {
        let file = folder.path().join(name);
        fs::write(&file, bytes).expect("written");
        let args = ["embed", "-m", text(&model), "-i", text(&file), "-o", text(&out)];
        refused(&[&args[..], more].concat(), part);
        assert!(!out.exists());
        let _ = fs::remove_dir_all(folder.path().join("v.npy.partial"));
    };
    embed("a.txt", b"one\ntwo \xff\n", &[], "a.txt: line 2: not UTF-8 at byte 4");
    embed("b.txt", b"one\n\0\n", &[], "b.txt: line 2: a NUL at byte 0");
    embed("c.jsonl", b"{\"x\": \"a\"}\n", &["--column", "y"], "there is no field `y`; there are x");
    embed("d.txt", b"a\n", &["--matryoshka", "99"], "the vectors of the model have 24 dimensions");
    embed("e.txt", b"a\n", &["--max-tokens", "65"], "an input of 65 tokens is not supported");
    embed("f.txt", b"a\n", &["--prompt", "poem"], "there is no prompt `poem`; the model has document, passage, query");
    let file = folder.path().join("a.txt");
    let nowhere = folder.path().join("no/such/folder/v.npy");
    fs::write(&file, "a\n").expect("written");
    refused(&["embed", "-m", text(&model), "-i", text(&file), "-o", "v.csv"], ".parquet, .arrow, .npy or .jsonl");
    refused(&["embed", "-m", text(&golden("mamba-a")), "-i", text(&file), "-o", text(&out)], "is no encoder");
    refused(&["embed", "-m", text(&model), "-i", "/nowhere.txt", "-o", text(&nowhere)], "/nowhere.txt");
    let late = sentences("colbert");
    refused(
        &["embed", "-m", text(&late), "-i", text(&file), "-o", text(&out)],
        "token vectors cannot be stored in .npy",
    );
}

#[test]
fn what_eight_bits_lose_is_measured() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("t.txt");
    fs::write(&file, "The quick river.\nYellow trees near the school.\n").expect("written");
    let line = stdout(&["accuracy", "-m", text(&sentences("st-bert-mean")), "-i", text(&file), "--json"]);
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((&line["dtype"], &line["texts"]), (&"int8".into(), &2.into()));
    let (mean, least) = (line["cosine"].as_f64().expect("a number"), line["least_cosine"].as_f64().expect("a number"));
    assert!(least <= mean && mean < 1.0 && least > 0.99, "{line}");
}

#[test]
fn a_sparse_model_is_made_and_used() {
    let folder = tempfile::tempdir().expect("a directory");
    let (from, to) = (sentences("st-bert-mean"), folder.path().join("long"));
    let args =
        ["sparsify", "-m", text(&from), "--attention", "longformer", "--window", "16", "--max-length", "200", "-o"];
    let said = run(&[&args[..], &[text(&to)]].concat());
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert!(stdout(&["info", text(&to)]).contains("a window of 8 tokens on either side and global tokens"));
    let (file, out) = (folder.path().join("t.txt"), folder.path().join("v.npy"));
    fs::write(&file, "The quick river and the old stone bridge. ".repeat(10)).expect("written");
    stdout(&["embed", "-m", text(&to), "-i", text(&file), "-o", text(&out)]);
    assert!(out.exists());
    refused(&[&args[..], &[text(&to)]].concat(), "is there already");
    refused(&["sparsify", "-m", text(&from), "--attention", "holes", "--max-length", "9", "-o", "x"], "found `holes`");
}

#[test]
fn forward_gives_what_transformers_gives_with_types_masks_and_global_tokens() {
    let folder = tempfile::tempdir().expect("a directory");
    for name in ["longformer-base-b", "bert-sequence-a", "roberta-question-a", "modernbert-token-b"] {
        let model = golden("encoders").join(name);
        let expected = Golden::read(model.join("expected.safetensors"));
        let mut tokens = serde_json::Map::new();
        for part in ["input_ids", "attention_mask", "token_type_ids", "global_attention_mask"] {
            if expected.has(&format!("c1.{part}")) {
                let (shape, numbers) = expected.integers(&format!("c1.{part}"));
                let rows: Vec<Vec<i64>> = numbers.chunks(shape[1]).map(<[i64]>::to_vec).collect();
                tokens.insert(part.into(), serde_json::json!(rows));
            }
        }
        let (file, out) = (folder.path().join("tokens.json"), folder.path().join("out.safetensors"));
        fs::write(&file, serde_json::to_vec(&tokens).expect("JSON")).expect("written");
        stdout(&["forward", "-m", text(&model), "--tokens", text(&file), "--out", text(&out)]);
        let got = Golden::read(&out);
        let (shape, mask) = expected.integers("c1.attention_mask");
        let mut compared = 0;
        for part in ["last_hidden_state", "pooler_output", "logits", "start_logits", "end_logits"] {
            let wanted = format!("c1.{part}");
            assert_eq!(
                expected.has(&wanted),
                got.has(part) && (part != "pooler_output" || expected.has(&wanted)),
                "{name}: {part}"
            );
            if !expected.has(&wanted) {
                continue;
            }
            let ((_, got), (of, want)) = (got.floats(part), expected.floats(&wanted));
            let each = of.len() > 1 && of[..2] == shape[..];
            let width = got.len() / if each { mask.len() } else { of[0] };
            for (i, (g, w)) in got.iter().zip(&want).enumerate().filter(|(i, _)| !each || mask[i / width] != 0) {
                assert!((g - w).abs() < 1e-4, "{name}: {part}, element {i}: {g}, want {w}");
            }
            compared += 1;
        }
        assert!(compared >= 1);
    }
    let file = folder.path().join("tokens.json");
    let model = golden("encoders").join("bert-base-a");
    for (tokens, part) in [
        (r#"{"input_ids": [[999]]}"#, "token id 999 is out of range"),
        (r#"{"input_ids": [[1]], "token_type_ids": [[7]]}"#, "type 7 is out of range"),
        (r#"{"input_ids": [[1]], "global_attention_mask": [[1, 1]]}"#, "`global_attention_mask`: want 1 rows of 1"),
    ] {
        fs::write(&file, tokens).expect("written");
        refused(&["forward", "-m", text(&model), "--tokens", text(&file), "--out", "x.safetensors"], part);
    }
    let long = serde_json::json!({"input_ids": [vec![1; 60]]}).to_string();
    fs::write(&file, long).expect("written");
    refused(&["forward", "-m", text(&model), "--tokens", text(&file), "--out", "x.safetensors"], "reads at most 48");
}

/// A file that may not grow stands for a disk that is full: the same error from the same call.
#[cfg(unix)]
#[test]
fn a_full_disk_is_named_and_what_was_finished_is_kept() {
    let folder = tempfile::tempdir().expect("a directory");
    let (model, input) = (sentences("st-bert-mean"), folder.path().join("texts.txt"));
    let (out, whole) = (folder.path().join("v.jsonl"), folder.path().join("whole.jsonl"));
    fs::write(&input, (0..4_500).map(|i| format!("river {i}\n")).collect::<String>()).expect("written");
    let embed = |out: &Path| ["embed", "-m", text(&model), "-i", text(&input), "-o", text(out)].map(String::from);
    // 2,000 times 512 or 1,024 bytes: enough for a piece, not for all vectors as text.
    let limited = "trap '' XFSZ; ulimit -f 2000; exec \"$0\" \"$@\"";
    let output = std::process::Command::new("sh")
        .args(["-c", limited, env!("CARGO_BIN_EXE_longreach")])
        .args(embed(&out))
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && !out.exists(), "{said}");
    let error: Vec<&str> = said.lines().filter(|line| line.starts_with("longreach: ")).collect();
    assert!(matches!(error[..], [line] if line.contains("v.jsonl") && line.contains("large")), "{said}");
    let pieces = fs::read_dir(folder.path().join("v.jsonl.partial")).expect("what was finished");
    let pieces: Vec<_> = pieces.map(|entry| entry.expect("an entry").file_name()).collect();
    assert!(pieces.iter().any(|name| name.to_string_lossy().ends_with(".arrow")), "{pieces:?}");
    let said = run(&embed(&out).each_ref().map(String::as_str)).stderr;
    assert!(
        String::from_utf8_lossy(&said).contains("4,500 of them in an earlier run"),
        "{}",
        String::from_utf8_lossy(&said)
    );
    stdout(&embed(&whole).each_ref().map(String::as_str));
    assert_eq!(fs::read(&out).expect("vectors"), fs::read(&whole).expect("vectors"));
}

/// GPT-2's tokenizer adds no special token: a text without a character has none at all.
#[test]
fn a_text_without_a_token_is_read_as_padding() {
    let folder = tempfile::tempdir().expect("a directory");
    let letters: Vec<char> = ('a'..='z').collect();
    let words = letters.iter().flat_map(|c| [c.to_string(), format!("Ġ{c}")]).zip(6..);
    let words: serde_json::Map<String, serde_json::Value> = words.map(|(word, id)| (word, id.into())).collect();
    let at = |name: &str| {
        let model = with_letters(folder.path(), name);
        fs::remove_file(model.join("vocab.txt")).expect("removed");
        fs::write(model.join("vocab.json"), serde_json::Value::from(words.clone()).to_string()).expect("written");
        fs::write(model.join("merges.txt"), "#version: 0.2\n").expect("written");
        model
    };
    let (labels, tokens, answers) = (at("gpt2-sequence-a"), at("gpt2-token-a"), at("gpt2-question-a"));
    let file = folder.path().join("t.txt");
    fs::write(&file, "abc de\n\nxyz\n").expect("written");
    let lines = stdout(&["classify", "-m", text(&labels), "-i", text(&file), "--json"]);
    let lines: Vec<serde_json::Value> = lines.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert!(lines.len() == 3 && lines.iter().all(|l| l["labels"][0]["score"].as_f64() > Some(0.3)), "{lines:?}");
    assert!(stdout(&["classify", "-m", text(&tokens), "--json", ""]).contains("\"entities\":[]"));
    stdout(&["answer", "-m", text(&answers), "--text", "", "--json", ""]);
    let out = folder.path().join("v.jsonl");
    fs::write(&file, "\n").expect("written");
    stdout(&["embed", "-m", text(&labels), "-i", text(&file), "-o", text(&out)]);
    assert_eq!(fs::read_to_string(&out).expect("vectors").lines().count(), 1);
}
