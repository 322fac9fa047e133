//! Jobs and indexes know what they were made from, and vectors are numbers.

use std::path::Path;

use longreach_engine::{Pooling, Similarity};

use super::*;

/// A copy of a golden directory that may be changed.
fn copy(name: &str, to: &Path) -> TextEncoder {
    let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/goldens").join(name);
    let mut waiting = vec![PathBuf::new()];
    while let Some(inner) = waiting.pop() {
        std::fs::create_dir_all(to.join(&inner)).expect("a folder");
        for entry in std::fs::read_dir(from.join(&inner)).expect("a folder") {
            let entry = entry.expect("an entry");
            let at = inner.join(entry.file_name());
            if entry.path().is_dir() {
                waiting.push(at);
            } else {
                std::fs::write(to.join(&at), std::fs::read(entry.path()).expect("a file")).expect("written");
            }
        }
    }
    reload(to)
}

fn reload(folder: &Path) -> TextEncoder {
    TextEncoder::load(folder.to_str().expect("a path"), None, Download::Hidden).expect("a model")
}

/// Replaces the bytes of a number in the middle of a model's last tensor, or wherever `place` says.
fn change_weights(folder: &Path, number: f32) {
    let file = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&file).expect("weights");
    let head = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"))).expect("a length");
    let names: serde_json::Value = serde_json::from_slice(&bytes[8..8 + head]).expect("a head");
    let (_, tensor) = names
        .as_object()
        .expect("tensors")
        .iter()
        .find(|(name, _)| name.ends_with("word_embeddings.weight"))
        .expect("embeddings");
    let from = 8 + head + tensor["data_offsets"][0].as_u64().expect("a place") as usize;
    let to = 8 + head + tensor["data_offsets"][1].as_u64().expect("a place") as usize;
    // Every token's first number.
    let width = tensor["shape"][1].as_u64().expect("a width") as usize;
    for at in (from..to).step_by(4 * width) {
        bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }
    std::fs::write(&file, bytes).expect("written");
}

#[test]
fn work_is_taken_up_for_the_same_input_and_model_only() {
    let at = tempfile::tempdir().expect("a directory");
    let model = at.path().join("model");
    let encoder = copy("st-bert-mean", &model);
    let texts: Vec<String> = (0..4200).map(|i| format!("river {}", i % 7)).collect();
    let input = written(at.path(), "x.txt", texts.join("\n"));
    let out = at.path().join("v.parquet");
    let first = job::partial(&out).join("000000.arrow");
    let begin = |encoder: &TextEncoder| {
        let mut stop =
            |_: &job::Progress| if first.exists() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let error = job(&input).run(encoder, &out, Existing::Refuse, &mut stop).expect_err("interrupted").to_string();
        assert!(error.contains("4,096") || error.contains("4096"), "{error}");
    };
    begin(&encoder);
    let go_on = |encoder: &TextEncoder| job(&input).run(encoder, &out, Existing::Refuse, &mut on);
    // A line that was embedded is another now; one at the end is not looked at yet.
    let changed = |i: usize, with: &str| {
        let mut texts = texts.clone();
        texts[i] = with.into();
        written(at.path(), "x.txt", texts.join("\n"));
    };
    changed(7, "queen");
    let error = go_on(&encoder).expect_err("another text").to_string();
    assert!(error.contains("x.txt: has changed since its first 4096 documents were embedded: remove"), "{error}");
    written(at.path(), "x.txt", "river");
    let error = go_on(&encoder).expect_err("fewer texts").to_string();
    assert!(error.contains("has changed since"), "{error}");
    changed(4199, "queen");
    // Other weights, another pipeline.
    change_weights(&model, 0.25);
    let error = go_on(&reload(&model)).expect_err("other weights").to_string();
    assert!(error.contains("another job (weights and tokenizer differ)"), "{error}");
    let mut other = copy("st-bert-mean", &model);
    other.pipeline.pooling = vec![Pooling::Cls];
    other.pipeline.set_normalize(!other.pipeline.normalizes());
    let error = go_on(&other).expect_err("another pipeline").to_string();
    assert!(error.contains("another job (normalize, pooling differ)"), "{error}");
    let done = go_on(&encoder).expect("taken up");
    assert_eq!((done.before, done.documents, done.rows), (4096, 4200, 4200));
    // A damaged description, and a damaged piece.
    begin_again(&out);
    begin(&encoder);
    let bytes = std::fs::read(&first).expect("a piece");
    let mut damaged = bytes.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&first, &damaged).expect("written");
    let error = go_on(&encoder).expect_err("damaged").to_string();
    assert!(error.contains("000000.arrow: damaged"), "{error}");
    std::fs::write(&first, &bytes).expect("written");
    std::fs::write(job::partial(&out).join("job.json"), "{").expect("written");
    let error = go_on(&encoder).expect_err("damaged").to_string();
    assert!(error.contains("job.json: damaged"), "{error}");
}

fn begin_again(out: &Path) {
    std::fs::remove_file(out).expect("removed");
}

#[test]
fn notes_of_work_that_was_taken_up_count_all_of_it() {
    let at = tempfile::tempdir().expect("a directory");
    let encoder = load("st-bert-mean");
    let long = "river ".repeat(300);
    let texts = (0..4200).map(|i| if i % 1000 == 0 { &long[..] } else { "  " }).collect::<Vec<_>>().join("\n");
    let input = written(at.path(), "x.txt", texts);
    let (out, whole) = (at.path().join("v.npy"), at.path().join("w.npy"));
    let job = Job { long: LongDocument::Mean { overlap: 9999 }, ..job(&input) };
    let first = job::partial(&out).join("000000.arrow");
    let mut stop = |_: &job::Progress| if first.exists() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    job.run(&encoder, &out, Existing::Refuse, &mut stop).expect_err("interrupted");
    let parts = job.run(&encoder, &out, Existing::Refuse, &mut on).expect("taken up");
    let once = job.run(&encoder, &whole, Existing::Refuse, &mut on).expect("embedded");
    for done in [parts, once] {
        assert_eq!((done.documents, done.rows, done.long, done.blank), (4200, 4200, 5, 4195));
        // What parts share is what they can share: half of one, not 9,999 tokens.
        assert!(done.shared > 10 && done.shared <= encoder.limit() as u64 / 2, "{}", done.shared);
    }
    assert!(parts.before == 4096 && once.before == 0);
}

#[test]
fn an_index_is_asked_by_the_model_that_made_it() {
    let at = tempfile::tempdir().expect("a directory");
    let model = at.path().join("model");
    let mut encoder = copy("st-bert-mean", &model);
    encoder.pipeline.pooling = vec![Pooling::Cls];
    let input = written(at.path(), "x.txt", "the quick river\nyellow trees\nan old stone bridge\n");
    let to = at.path().join("index");
    index::build(&mut encoder, &build(&input), &to, &mut on).expect("built");
    let cx = Cx::new(1);
    let index = Index::open(&cx, &to).expect("an index");
    // The pooling of the model itself is another; what was recorded is taken.
    let mut plain = reload(&model);
    let error = index.with(&plain).err().expect("another pooling").to_string();
    assert!(error.contains("another `pooling`: [\"cls\"], but the query uses [\"mean\"]"), "{error}");
    index.about().restore(&mut plain);
    let ask =
        |encoder: &TextEncoder| index.with(encoder).expect("the same").ask(&cx, "yellow trees", 9).expect("found");
    assert_eq!(ask(&plain), ask(&encoder));
    let int8 =
        TextEncoder::load(model.to_str().expect("a path"), Some(longreach_models::DType::Int8), Download::Hidden);
    let mut int8 = int8.expect("a model");
    index.about().restore(&mut int8);
    let error = index.with(&int8).err().expect("another precision").to_string();
    assert!(error.contains("another `dtype`: \"f32\""), "{error}");
    assert_eq!(index.about().dtype(), Some("f32"));
    change_weights(&model, 0.25);
    let mut other = reload(&model);
    index.about().restore(&mut other);
    let error = index.with(&other).err().expect("other weights").to_string();
    assert!(error.contains("was built with another model"), "{error}");
}

#[test]
fn vectors_that_are_no_numbers_are_refused_by_their_document() {
    let at = tempfile::tempdir().expect("a directory");
    let model = at.path().join("model");
    copy("st-bert-mean", &model);
    change_weights(&model, f32::NAN);
    let mut encoder = reload(&model);
    let input = written(at.path(), "x.jsonl", "{\"text\": \"the river\"}\n");
    let out = at.path().join("v.jsonl");
    let error = job(&input).run(&encoder, &out, Existing::Refuse, &mut on).expect_err("NaN").to_string();
    assert!(error.contains("x.jsonl: line 1: its vector holds NaN or infinite numbers"), "{error}");
    assert!(!out.exists());
    let to = at.path().join("index");
    let error = index::build(&mut encoder, &build(&input), &to, &mut on).expect_err("NaN").to_string();
    assert!(error.contains("x.jsonl: line 1: its vector holds NaN"), "{error}");
    assert!(!to.exists());
}

#[test]
fn blank_documents_are_no_matches_and_fields_come_with_those_there_are() {
    let at = tempfile::tempdir().expect("a directory");
    let lines =
        "{\"text\": \"the river\", \"id\": 5}\n{\"text\": \" \\n\", \"id\": 6}\n{\"text\": \"trees\", \"id\": null}\n";
    let input = written(at.path(), "x.jsonl", lines);
    let options = Options { fields: vec!["id".into()], ..Options::default() };
    let mut encoder = load("st-bert-mean");
    let to = at.path().join("index");
    let what = Build { options: &options, ..build(&input) };
    let done = index::build(&mut encoder, &what, &to, &mut on).expect("built");
    assert_eq!((done.documents, done.rows, done.blank), (3, 2, 1));
    let cx = Cx::new(1);
    let index = Index::open(&cx, &to).expect("an index");
    let questions = index.with(&encoder).expect("the same");
    let mut all = questions.ask(&cx, "a lake", 9).expect("found");
    all.sort_by_key(|found| found.row);
    assert_eq!(
        all.iter().map(|f| (f.row, f.fields.clone())).collect::<Vec<_>>(),
        [(0, vec![Some("5".to_owned())]), (2, vec![None]),]
    );
    assert!(index.place(&all[1]).ends_with("x.jsonl, row 2"));
    assert_eq!(questions.ask(&cx, " \n", 9).expect("nothing"), []);
    // A question whose scores are no numbers matches nothing.
    assert_eq!(index.best(&cx, &[f32::NAN; 24], 9), []);
    // Nothing but blank documents is no index.
    let blank = written(at.path(), "blank.txt", "\n \n");
    let error =
        index::build(&mut encoder, &build(&blank), &at.path().join("b"), &mut on).expect_err("blank").to_string();
    assert!(error.contains("blank.txt: holds no text: its 2 documents are blank"), "{error}");
}

#[test]
fn each_similarity_ranks_as_its_score_does() {
    let at = tempfile::tempdir().expect("a directory");
    let model = at.path().join("model");
    let mut encoder = copy("st-bert-mean", &model);
    encoder.pipeline.set_normalize(false);
    let texts = lines(30);
    let input = written(at.path(), "x.txt", texts.join("\n"));
    let cx = Cx::new(2);
    let borrowed: Vec<&str> = texts.iter().map(String::as_str).collect();
    encoder.set_limit(24).expect("a limit");
    let query = encoder.embed(&["boats on the lake"], Prompt::Query).expect("a vector").concat();
    let vectors = encoder.embed(&borrowed, Prompt::Document).expect("vectors");
    for (name, similarity) in Similarity::ALL {
        let to = at.path().join(name);
        let what = Build { similarity: Some(similarity), ..build(&input) };
        index::build(&mut encoder, &what, &to, &mut on).expect("built");
        let index = Index::open(&cx, &to).expect("an index");
        let found = index.best(&cx, &query, usize::MAX);
        assert!(found.windows(2).all(|w| w[0].score >= w[1].score));
        // Documents of one passage have the vector that the model gives them.
        let mut compared = 0;
        for f in found.iter().filter(|f| f.text == texts[f.row as usize]) {
            let want = similarity.score(&query, &vectors[f.row as usize]);
            assert!((f.score - want).abs() <= 1e-4 * want.abs().max(1.0), "{name}: {} {want}", f.score);
            compared += 1;
        }
        assert!(compared > 3, "{name}");
        assert_eq!(index.about().similarity.as_deref(), Some(name));
    }
    // What the model says is taken where nobody asks.
    let file = model.join("config_sentence_transformers.json");
    let mut says: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).expect("a file")).expect("JSON");
    says["similarity_fn_name"] = "manhattan".into();
    std::fs::write(&file, says.to_string()).expect("written");
    let mut encoder = reload(&model);
    index::build(&mut encoder, &build(&input), &at.path().join("own"), &mut on).expect("built");
    let index = Index::open(&cx, &at.path().join("own")).expect("an index");
    assert_eq!(index.about().similarity.as_deref(), Some("manhattan"));
    let mut late = load("colbert");
    let what = Build { similarity: Some(Similarity::Dot), ..build(&input) };
    let error = index::build(&mut late, &what, &at.path().join("late"), &mut on).expect_err("best matches").to_string();
    assert!(error.contains("similarity `dot`"), "{error}");
}
