//! Vectors of texts are those of sentence-transformers and PyLate, from their directories.

use std::path::PathBuf;

use longreach_engine::{Long, Part, Prompt, TextEncoder};
use longreach_models::Progress;
use longreach_testkit::goldens::Golden;
use serde_json::Value;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

fn load(name: &str) -> TextEncoder {
    TextEncoder::load(folder(name).to_str().expect("a path"), None, Progress::Hidden).expect("a golden directory")
}

fn json(name: &str) -> Value {
    let text = std::fs::read(folder(name).join("texts.json")).expect("texts");
    serde_json::from_slice(&text).expect("JSON")
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().expect("a list").iter().map(|text| text.as_str().expect("a text")).collect()
}

fn ids(value: &Value) -> Vec<Vec<u32>> {
    let row =
        |row: &Value| row.as_array().expect("a row").iter().map(|id| id.as_u64().expect("an id") as u32).collect();
    value.as_array().expect("rows").iter().map(row).collect()
}

#[track_caller]
fn close(what: &str, got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*g) - w).abs() <= 2e-5, "{what}: element {i} is {g}, want {w}");
    }
}

const SENTENCES: [&str; 6] = [
    "st-bert-mean",
    "st-roberta-cls",
    "st-modernbert-max",
    "st-bert-lasttoken",
    "vocab-only/bert",
    "vocab-only/roberta",
];

#[test]
fn tokens_and_vectors_are_those_of_sentence_transformers() {
    for name in SENTENCES {
        let (encoder, about) = (load(name), json(name));
        let golden = Golden::read(folder(name).join("expected.safetensors"));
        assert_eq!(encoder.limit() as u64, about["max_seq_length"].as_u64().expect("a number"), "{name}");
        let texts = texts(&about["texts"]);
        for case in about["cases"].as_array().expect("cases") {
            let tensor = case["tensor"].as_str().expect("a name");
            let prompt = match (case["prompt_name"].as_str(), case["prompt"].as_str()) {
                (Some(name), _) => Prompt::Named(name),
                (None, Some(text)) => Prompt::Text(text),
                (None, None) if tensor == "vectors" => Prompt::Default,
                (None, None) => Prompt::Text(""),
            };
            let before = encoder.prompt(prompt).expect("a prompt").to_owned();
            for (text, ids) in texts.iter().zip(ids(&case["ids"])) {
                let parts = encoder.parts(text, &before, Long::Truncate).expect("tokens");
                assert_eq!(parts.len(), 1);
                assert_eq!(parts[0].ids, ids, "{name}, {tensor}: {text:?}");
            }
            let (shape, want) = golden.floats(tensor);
            assert_eq!(encoder.width(), shape[1], "{name}");
            let vectors = encoder.embed(&texts, prompt).expect("vectors");
            close(&format!("{name}, {tensor}"), &vectors.concat(), &want);
        }
    }
}

#[test]
fn late_interaction_is_that_of_pylate() {
    for name in ["colbert", "colbert-attend"] {
        let (encoder, about) = (load(name), json(name));
        assert!(encoder.is_late());
        let golden = Golden::read(folder(name).join("expected.safetensors"));
        let queries: Vec<Vec<f32>> =
            texts(&about["queries"]).iter().map(|text| encoder.late_query(text).expect("a query")).collect();
        for (i, query) in queries.iter().enumerate() {
            close(&format!("{name}, query {i}"), query, &golden.floats(&format!("query.{i}")).1);
        }
        let documents: Vec<Part> = texts(&about["documents"])
            .iter()
            .flat_map(|text| encoder.late_parts(text, Long::Truncate).expect("tokens"))
            .collect();
        for (part, ids) in documents.iter().zip(ids(&about["document_ids"])) {
            assert_eq!(part.ids, ids, "{name}");
        }
        let documents = encoder.late_documents(&documents.iter().collect::<Vec<_>>()).expect("vectors");
        for (i, document) in documents.iter().enumerate() {
            close(&format!("{name}, document {i}"), document, &golden.floats(&format!("document.{i}")).1);
        }
    }
}

#[test]
fn long_texts_are_split_without_losing_a_token() {
    for name in ["st-bert-mean", "st-roberta-cls"] {
        let encoder = load(name);
        let text = "The quick river, the boats! And the 7 birds… ".repeat(40);
        for (prompt, overlap) in [("", 0), ("query: ", 5), ("", 1000)] {
            let parts = encoder.parts(&text, prompt, Long::Split { overlap }).expect("parts");
            assert!(parts.len() > 5, "{name}: {} parts", parts.len());
            assert!(parts.iter().all(|part| part.ids.len() <= encoder.limit()));
            assert_eq!((parts[0].bytes.start, parts[parts.len() - 1].bytes.end), (0, text.len()));
            for w in parts.windows(2) {
                let (a, b) = (&w[0].bytes, &w[1].bytes);
                assert!(a.start < b.start && a.end < b.end, "{name}: {a:?}, {b:?}");
                // Nothing between them but what no token stands for.
                assert!(b.start <= a.end || text[a.end..b.start].trim().is_empty(), "{name}: {a:?}, {b:?}");
            }
            for part in &parts {
                let last = part.places.iter().flatten().last().expect("a token of the text");
                assert!(last.1 <= part.bytes.end && last.0 >= part.bytes.start, "{name}: {last:?} of {:?}", part.bytes);
            }
        }
        let short = encoder.parts("A short text.", "", Long::Split { overlap: 3 }).expect("parts");
        assert_eq!(short, encoder.parts("A short text.", "", Long::Truncate).expect("parts"));
    }
}

#[test]
fn directories_that_lie_are_refused_by_name() {
    let copy = |name: &str| {
        let to = tempfile::tempdir().expect("a directory");
        for entry in std::fs::read_dir(folder(name)).expect("a folder") {
            let from = entry.expect("an entry").path();
            let at = to.path().join(from.file_name().expect("a name"));
            if from.is_dir() {
                std::fs::create_dir(&at).expect("a directory");
                for file in std::fs::read_dir(&from).expect("a folder") {
                    let file = file.expect("an entry").path();
                    std::fs::copy(&file, at.join(file.file_name().expect("a name"))).expect("copied");
                }
            } else {
                std::fs::copy(&from, at).expect("copied");
            }
        }
        to
    };
    let cases: [(&str, &str, &[u8], &str); 8] = [
        ("st-bert-mean", "modules.json", b"{}", "want a list of modules"),
        ("st-bert-mean", "modules.json", b"[{\"type\": \"a.Transformer\"}]", "a module without a string `path`"),
        (
            "st-bert-mean",
            "modules.json",
            br#"[{"type": "a.Transformer", "path": "../.."}]"#,
            "leads out of the directory",
        ),
        (
            "st-bert-mean",
            "modules.json",
            br#"[{"type": "sentence_transformers.models.CLIPModel", "path": ""}]"#,
            "a `Transformer` before it",
        ),
        ("st-bert-mean", "1_Pooling/config.json", br#"{"pooling_mode": "best"}"#, "`best` is not supported"),
        (
            "st-bert-mean",
            "config_sentence_transformers.json",
            br#"{"default_prompt_name": "x"}"#,
            "there is no prompt `x`",
        ),
        ("st-roberta-cls", "2_Dense/config.json", br#"{"in_features": 9, "out_features": 10}"#, "linear.weight"),
        ("st-bert-mean", "tokenizer.json", b"{", "not a tokenizer"),
    ];
    for (name, file, bytes, want) in cases {
        let at = copy(name);
        std::fs::write(at.path().join(file), bytes).expect("written");
        let found = TextEncoder::load(at.path().to_str().expect("a path"), None, Progress::Hidden);
        let Err(error) = found else { panic!("{name}, {file}: no error") };
        assert!(error.to_string().contains(want), "{file}: {error}");
    }
    let mut encoder = load("st-bert-mean");
    assert!(encoder.prompt(Prompt::Named("x")).expect_err("an error").to_string().contains("document, passage, query"));
    assert!(encoder.set_limit(2).is_err() && encoder.set_limit(65).is_err() && encoder.set_limit(64).is_ok());
    assert!(encoder.late_query("text").is_err());
}

/// The sentences of the goldens of GGUF files with tokenizers.
const SENTENCES_OF_GGUF: [&str; 3] =
    ["The longest of the seas.", "a", "reading long seas, readers read the READING of Élan ☂"];

#[test]
fn a_gguf_file_gives_the_tokens_and_vectors_of_its_checkpoint() {
    for (name, pooling) in [("bert-text", "cls"), ("nomic_bert-text", "mean")] {
        let at = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/tests/goldens/gguf").join(name);
        let encoder = TextEncoder::load(at.with_extension("gguf"), None, Progress::Hidden).expect("a golden file");
        assert_eq!(encoder.pipeline.pooling[0].name(), pooling, "{name}");
        assert!(encoder.pipeline.normalizes() && encoder.note_on_vectors().is_none(), "{name}");
        let golden = Golden::read(at.with_extension("safetensors"));
        let vectors = encoder.embed(&SENTENCES_OF_GGUF, Prompt::Default).expect("vectors");
        for (n, (text, vector)) in SENTENCES_OF_GGUF.iter().zip(vectors).enumerate() {
            let (_, ids) = golden.integers(&format!("c{n}.input_ids"));
            let parts = encoder.parts(text, "", Long::Truncate).expect("tokens");
            assert_eq!(parts[0].ids, ids.iter().map(|id| *id as u32).collect::<Vec<_>>(), "{name}: {text}");
            close(&format!("{name}: {text}"), &vector, &golden.floats(&format!("c{n}.vector")).1);
        }
    }
}
