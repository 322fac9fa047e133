//! A vocabulary of whole words, as old checkpoints have it, is a tokenizer.

use std::path::{Path, PathBuf};

use longreach_engine::Engine;
use longreach_models::Progress;

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/goldens/transfo-xl-b-pickle").join(file)
}

/// The checkpoint with one vocabulary of the two.
fn engine(vocabulary: &str, to: &Path) -> Engine {
    for file in ["config.json", "pytorch_model.bin", vocabulary] {
        std::fs::copy(golden(file), to.join(file)).expect("copied");
    }
    Engine::load(to, None, Progress::Hidden).expect("a model")
}

#[test]
fn both_files_make_the_same_tokenizer_and_it_reads_wikitext() {
    let expected = std::fs::read_to_string(golden("tokens.json")).expect("a file");
    let expected: serde_json::Value = serde_json::from_str(&expected).expect("JSON");
    let symbols: Vec<&str> =
        expected["symbols"].as_array().expect("a list").iter().filter_map(|s| s.as_str()).collect();
    for file in ["vocab.pkl", "vocab.bin"] {
        let folder = tempfile::tempdir().expect("a directory");
        let engine = engine(file, folder.path());
        let text = "The road is 250 km long @-@ or so ,\nhe said .";
        let ids = engine.tokenizer().expect("a tokenizer").encode(text).expect("tokens");
        let read: Vec<&str> = ids.iter().map(|id| symbols[*id as usize]).collect();
        let known = |word: &'static str| if symbols.contains(&word) { word } else { "<unk>" };
        let words = ["The", "road", "is", "250", "km", "long", "@-@", "or", "so", ",", "<eos>", "he", "said", "."];
        assert_eq!(read, words.map(known), "{file}");
        let mut session = engine.session();
        session.read_text("The road is").expect("read");
        let written = session.write(5, longreach_engine::Sampling::greedy()).expect("text");
        assert!(written.split_whitespace().all(|word| symbols.contains(&word)), "{written}");
    }
}

#[test]
fn a_vocabulary_that_is_none_is_named() {
    let folder = tempfile::tempdir().expect("a directory");
    for (content, part) in [(&b"nonsense"[..], "vocab.pkl"), (b"\x80\x04}\x94.", "idx2sym")] {
        for file in ["config.json", "pytorch_model.bin"] {
            std::fs::copy(golden(file), folder.path().join(file)).expect("copied");
        }
        std::fs::write(folder.path().join("vocab.pkl"), content).expect("written");
        let error = Engine::load(folder.path(), None, Progress::Hidden).err().expect("refused");
        assert!(error.to_string().contains(part) && error.to_string().contains("vocab.pkl"), "{error}");
    }
}
