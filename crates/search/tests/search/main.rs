//! Documents become vectors once each, whatever interrupts the work; and what is indexed is found.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt64Type};
use longreach_engine::{Prompt, TextEncoder};
use longreach_models::Progress as Download;
use longreach_search::documents::{Input, Options};
use longreach_search::index::{self, Build, Index, Passages};
use longreach_search::job::{self, Blank, Job, LongDocument};
use longreach_search::matches;
use longreach_search::output::Existing;
use longreach_simd::{Cx, Isa};

mod damaged;
mod documents;
mod identity;
mod outputs;
mod shards;

fn load(name: &str) -> TextEncoder {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/goldens").join(name);
    TextEncoder::load(folder.to_str().expect("a path"), None, Download::Hidden).expect("a golden directory")
}

fn on(_: &job::Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn lines(n: usize) -> Vec<String> {
    (0..n)
        .map(|i| format!("The {i} boats, the quick river and {} birds {}", i * 7 % 13, "lake ".repeat(i % 40)))
        .collect()
}

/// Nothing is said about how documents are read.
static PLAIN: Options = Options { format: None, column: None, fields: Vec::new(), leave_out: Vec::new(), shard: None };

fn job<'a>(input: &'a Input) -> Job<'a> {
    let (long, blank) = (LongDocument::Truncate, Blank::Keep);
    Job { input, options: &PLAIN, prompt: "", long, blank, keep: None, batch: 512, text: false }
}

fn build<'a>(input: &'a Input) -> Build<'a> {
    let passages = Passages { tokens: 24, overlap: 4, batch: 300 };
    Build { input, options: &PLAIN, passages, similarity: None, existing: Existing::Refuse }
}

/// A file that was just written, as an input.
fn written(at: &Path, name: &str, bytes: impl AsRef<[u8]>) -> Input {
    let file = at.join(name);
    std::fs::create_dir_all(file.parent().expect("a folder")).expect("folders");
    std::fs::write(&file, bytes).expect("written");
    Input::of(file.to_str().expect("a path")).expect("an input")
}

/// The rows of a Parquet file: numbers of documents, and vectors.
fn parquet(file: &Path) -> (Vec<u64>, Vec<f32>) {
    let file = std::fs::File::open(file).expect("a file");
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet");
    let (mut rows, mut numbers) = (Vec::new(), Vec::new());
    for batch in reader.build().expect("a reader") {
        let batch = batch.expect("a batch");
        rows.extend_from_slice(batch.column_by_name("row").expect("rows").as_primitive::<UInt64Type>().values());
        let vectors = batch.column_by_name("vector").expect("vectors").as_fixed_size_list();
        numbers.extend_from_slice(vectors.values().as_primitive::<Float32Type>().values());
    }
    (rows, numbers)
}

#[track_caller]
fn close(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    let apart = a.iter().zip(b).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(apart < 2e-5, "{apart}");
}

#[test]
fn every_row_has_the_vector_of_its_text() {
    let encoder = load("st-bert-mean");
    let at = tempfile::tempdir().expect("a directory");
    let texts = lines(90);
    let input = at.path().join("texts.txt");
    std::fs::write(&input, texts.join("\n")).expect("written");
    let input = Input::of(input.to_str().expect("a path")).expect("an input");
    let borrowed: Vec<&str> = texts.iter().map(String::as_str).collect();
    let want = encoder.embed(&borrowed, Prompt::Text("")).expect("vectors").concat();
    let out = at.path().join("vectors.parquet");
    let done = job(&input).run(&encoder, &out, Existing::Replace, &mut on).expect("embedded");
    assert_eq!((done.documents, done.rows), (90, 90));
    let (rows, numbers) = parquet(&out);
    assert_eq!(rows, (0..90).collect::<Vec<u64>>());
    close(&numbers, &want);
    assert!(!job::partial(&out).exists());
    // The same numbers from NumPy's file and from JSON.
    let npy = at.path().join("vectors.npy");
    job(&input).run(&encoder, &npy, Existing::Replace, &mut on).expect("embedded");
    let bytes = std::fs::read(&npy).expect("a file");
    assert!(bytes.starts_with(b"\x93NUMPY\x01\x00"));
    let head = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!(head % 64, 0);
    assert!(String::from_utf8_lossy(&bytes[10..head]).contains("(90, 24)"));
    let again: Vec<f32> = bytes[head..].as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(again, numbers);
    let jsonl = at.path().join("vectors.jsonl");
    job(&input).run(&encoder, &jsonl, Existing::Replace, &mut on).expect("embedded");
    let text = std::fs::read_to_string(&jsonl).expect("a file");
    let last: serde_json::Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["row"], 89);
    assert_eq!(last["vector"].as_array().map(Vec::len), Some(24));
    // What was embedded is input again.
    let short = Job { keep: Some(10), ..job(&input) };
    short.run(&encoder, &out, Existing::Replace, &mut on).expect("embedded");
    let (_, cut) = parquet(&out);
    for (cut, whole) in cut.chunks(10).zip(numbers.chunks(24)) {
        let length = whole[..10].iter().map(|x| x * x).sum::<f32>().sqrt();
        close(cut, &whole[..10].iter().map(|x| x / length).collect::<Vec<_>>());
    }
}

#[test]
fn interrupted_work_goes_on_and_loses_nothing() {
    let encoder = load("st-bert-mean");
    let at = tempfile::tempdir().expect("a directory");
    // More documents than a piece has.
    let texts = lines(9000);
    let json: Vec<String> =
        texts.iter().enumerate().map(|(i, t)| serde_json::json!({"id": i, "body": t}).to_string()).collect();
    let file = at.path().join("texts.jsonl");
    std::fs::write(&file, json.join("\n")).expect("written");
    let input = Input::of(file.to_str().expect("a path")).expect("an input");
    let (whole, pieces) = (at.path().join("whole.parquet"), at.path().join("pieces.parquet"));
    let body = Options { column: Some("body".into()), ..Options::default() };
    let named = Job { options: &body, batch: 8192, ..job(&input) };
    named.run(&encoder, &whole, Existing::Replace, &mut on).expect("embedded");
    let mut ends = 0;
    loop {
        let mut calls = 0;
        let mut stop = |_: &job::Progress| {
            calls += 1;
            if calls > 9 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        match named.run(&encoder, &pieces, Existing::Replace, &mut stop) {
            Ok(done) => {
                assert!(done.before > 0 && done.documents == 9000);
                break;
            }
            Err(error) => assert!(error.to_string().contains("run the same command again"), "{error}"),
        }
        ends += 1;
        assert!(ends < 50);
    }
    assert!(ends > 0);
    assert_eq!(parquet(&whole), parquet(&pieces));
    // Other work does not mix with it.
    let first = job::partial(&pieces).join("000000.arrow");
    let mut stop = |_: &job::Progress| if first.exists() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    assert!(named.run(&encoder, &pieces, Existing::Replace, &mut stop).is_err());
    let other = Job { prompt: "query: ", ..named };
    let error = other.run(&encoder, &pieces, Existing::Replace, &mut on).expect_err("an error").to_string();
    assert!(error.contains("another job (prompt differ)"), "{error}");
}

#[test]
fn long_documents_are_means_parts_or_cut() {
    let encoder = load("st-bert-mean");
    let at = tempfile::tempdir().expect("a directory");
    let file = at.path().join("a.txt");
    std::fs::write(&file, format!("{}\nshort\n\n", "The quick river and the boats. ".repeat(50))).expect("written");
    let input = Input::of(file.to_str().expect("a path")).expect("an input");
    let out = at.path().join("v.parquet");
    let run = |long| {
        let done = Job { long, ..job(&input) }.run(&encoder, &out, Existing::Replace, &mut on).expect("embedded");
        assert_eq!((done.documents, done.long, done.blank), (3, 1, 1), "{long:?}");
        parquet(&out)
    };
    let (rows, cut) = run(LongDocument::Truncate);
    assert_eq!(rows, [0, 1, 2]);
    let (rows, parts) = run(LongDocument::Parts { overlap: 4 });
    assert!(rows.len() > 5 && rows.ends_with(&[0, 1, 2]));
    let (rows, mean) = run(LongDocument::Mean { overlap: 4 });
    assert_eq!(rows, [0, 1, 2]);
    assert_eq!(mean[24..], cut[24..]);
    assert_eq!(parts[parts.len() - 48..], cut[24..]);
    assert!(mean[..24] != cut[..24] && (mean[..24].iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
}

#[test]
fn an_index_finds_what_is_nearest_by_one_vector_and_by_one_a_token() {
    let at = tempfile::tempdir().expect("a directory");
    let folder = at.path().join("documents");
    std::fs::create_dir_all(folder.join("more")).expect("folders");
    for (i, text) in lines(30).into_iter().enumerate() {
        let name = if i % 2 == 0 { format!("{i:02}.txt") } else { format!("more/{i:02}.md") };
        std::fs::write(folder.join(name), text).expect("written");
    }
    std::fs::write(folder.join("picture.bin"), [0u8, 159, 146, 150]).expect("written");
    let input = Input::of(folder.to_str().expect("a path")).expect("an input");
    for name in ["st-bert-mean", "st-roberta-cls", "colbert"] {
        let mut encoder = load(name);
        let to = at.path().join(name);
        let done = index::build(&mut encoder, &build(&input), &to, &mut on).expect("built");
        assert_eq!((done.documents, done.left_out), (30, 1), "{name}");
        assert!(done.rows > 30);
        let cx = Cx::new(2);
        let index = Index::open(&cx, &to).expect("an index");
        let questions = index.with(&encoder).expect("the encoder that made it");
        let all = questions.ask(&cx, "boats on the lake", usize::MAX).expect("found");
        assert_eq!(all.len() as u64, done.rows);
        assert!(all.windows(2).all(|w| w[0].score >= w[1].score));
        // Passages are where they say they are.
        for found in &all {
            let file = std::fs::read(found.file.as_ref().expect("a file")).expect("a document");
            assert_eq!(&file[found.bytes.start as usize..found.bytes.end as usize], found.text.as_bytes());
        }
        let few = questions.ask(&cx, "boats on the lake", 3).expect("found");
        assert_eq!(few[..], all[..3]);
        // Scores are those of the vectors themselves.
        if !encoder.is_late() {
            let query = encoder.embed(&["boats on the lake"], Prompt::Query).expect("a vector").concat();
            let document = encoder.embed(&[&few[0].text], Prompt::Document).expect("a vector").concat();
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let cosine = dot(&query, &document) / (dot(&query, &query) * dot(&document, &document)).sqrt();
            assert!((few[0].score - cosine).abs() < 1e-4, "{name}: {} {cosine}", few[0].score);
        }
        let error = index::build(&mut encoder, &build(&input), &to, &mut on).expect_err("an error");
        assert!(error.to_string().contains("already exists"), "{error}");
    }
    let index = Index::open(&Cx::new(1), &at.path().join("colbert")).expect("an index");
    let error = index.with(&load("st-bert-mean")).err().expect("another model").to_string();
    assert!(error.contains("one vector of 12 dimensions per token"), "{error}");
}

#[test]
fn half_an_index_is_named_and_a_damaged_one_too() {
    let at = tempfile::tempdir().expect("a directory");
    let file = at.path().join("a.txt");
    std::fs::write(&file, lines(50).join("\n")).expect("written");
    let input = Input::of(file.to_str().expect("a path")).expect("an input");
    let mut encoder = load("st-bert-mean");
    let to = at.path().join("index");
    let cx = Cx::new(1);
    let mut stop = |_: &job::Progress| ControlFlow::Break(());
    assert!(index::build(&mut encoder, &build(&input), &to, &mut stop).is_err());
    let error = Index::open(&cx, &to).expect_err("an error").to_string();
    assert!(error.contains("is not finished") && error.contains("index.partial"), "{error}");
    index::build(&mut encoder, &build(&input), &to, &mut on).expect("built");
    let table = to.join("passages.arrow");
    let bytes = std::fs::read(&table).expect("a table");
    for n in (0..bytes.len()).step_by(bytes.len() / 40) {
        std::fs::write(&table, &bytes[..n]).expect("written");
        let error = Index::open(&cx, &to).expect_err("an error").to_string();
        assert!(error.contains("passages.arrow"), "{n}: {error}");
    }
    std::fs::write(&table, &bytes).expect("written");
    let about = std::fs::read_to_string(to.join("index.json")).expect("a file");
    for (from, with, want) in [
        ("\"version\": 2", "\"version\": 7", "version 7"),
        ("\"width\": 24", "\"width\": 25", "its columns are"),
        ("{", "", "damaged"),
    ] {
        std::fs::write(to.join("index.json"), about.replacen(from, with, 1)).expect("written");
        let error = Index::open(&cx, &to).expect_err("an error").to_string();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn the_sum_of_best_matches_is_that_of_all_products() {
    let number = |i: usize| ((i * 7919 + 13) % 2003) as f32 / 1001.5 - 1.0;
    for (queries, width) in [(1, 3), (16, 8), (32, 128), (33, 20), (70, 5)] {
        let query: Vec<f32> = (0..queries * width).map(number).collect();
        let bounds = [0, 1, 1, 12, 37, 200];
        let tokens: Vec<f32> = (0..200 * width).map(|i| number(i * 3 + 1)).collect();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let want: Vec<f64> = bounds
            .windows(2)
            .map(|w| {
                let rows = || tokens[w[0] * width..w[1] * width].chunks(width);
                let best = |q: &[f32]| rows().map(|t| dot(q, t)).fold(f64::NEG_INFINITY, f64::max);
                query.chunks(width).map(best).sum()
            })
            .collect();
        for isa in Isa::available() {
            for threads in [1, 3] {
                let got = matches::scores(&Cx::with_isa(isa, threads), &query, width, &tokens, &bounds);
                for (got, want) in got.iter().zip(&want) {
                    let same = f64::from(*got) == *want || (f64::from(*got) - want).abs() < 1e-4;
                    assert!(same, "{isa}: {queries} by {width}: {got}, want {want}");
                }
            }
        }
    }
}
