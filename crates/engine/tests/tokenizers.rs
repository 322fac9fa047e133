//! A tokenizer is all its files: tokens are those of transformers' `AutoTokenizer`, and of RWKV's own code, from directories as they are published.

use std::path::{Path, PathBuf};

use longreach_engine::{Error, Pieces, Tokenizer};
use longreach_testkit::fuzz;
use proptest::prelude::*;
use serde_json::Value;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tokenizers").join(name)
}

fn load(name: &str) -> Tokenizer {
    Tokenizer::load(&folder(name)).expect("a golden directory").expect("a tokenizer")
}

fn expected() -> Value {
    let text = std::fs::read_to_string(folder("expected.json")).expect("goldens");
    serde_json::from_str(&text).expect("JSON")
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().expect("a list").iter().map(|text| text.as_str().expect("a text")).collect()
}

fn ids(value: &Value) -> Vec<Vec<u32>> {
    let row =
        |row: &Value| row.as_array().expect("a row").iter().map(|id| id.as_u64().expect("an id") as u32).collect();
    value.as_array().expect("rows").iter().map(row).collect()
}

#[test]
fn tokens_are_those_of_the_reference() {
    let expected = expected();
    let texts = texts(&expected["texts"]);
    let mut wrong = Vec::new();
    for (name, want) in expected["folders"].as_object().expect("folders") {
        let tokenizer = load(name);
        for (i, (around, alone)) in ids(&want["ids"]).into_iter().zip(ids(&want["alone"])).enumerate() {
            let text = texts[i];
            let found = tokenizer.encode(text).expect("tokens");
            if found != alone {
                wrong.push(format!("{name}: {text:?} is {found:?}, want {alone:?}"));
            }
            let found = tokenizer.encode_around(text).expect("tokens");
            let found = [found.ids, found.behind].concat();
            if found != around {
                wrong.push(format!("{name}: {text:?} with what is put around it is {found:?}, want {around:?}"));
            }
            let decoded = tokenizer.decode(&alone).expect("a text");
            if Some(&*decoded) != want["decoded"][i].as_str() {
                wrong.push(format!("{name}: {alone:?} is {decoded:?}, want {}", want["decoded"][i]));
            }
        }
        for (i, want) in ids(&want["pairs"]).into_iter().enumerate() {
            let library = tokenizer.hugging_face().expect("a tokenizer of pairs");
            let found = library.encode((texts[i], texts[i + 1]), true).expect("tokens").get_ids().to_vec();
            if found != want {
                wrong.push(format!("{name}: {:?} and {:?} are {found:?}, want {want:?}", texts[i], texts[i + 1]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// A text's tokens, a piece at a time.
fn in_pieces(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut pieces = Pieces::new(tokenizer, text.as_bytes(), "a text");
    let mut ids = Vec::new();
    while let Some(piece) = pieces.next_piece().expect("a piece") {
        ids.extend(piece);
    }
    ids
}

#[test]
fn a_long_text_in_pieces_has_the_tokens_of_the_whole() {
    let expected = expected();
    let texts = texts(&expected["texts"]);
    // Words of many kinds, several pieces long, and one of them in which no word ends.
    let long = texts.join(" and\n").repeat(8);
    let dense = "漢字\u{1f642}".repeat(900);
    for name in ["world", "llama", "llama-legacy", "own-bpe", "xlm-roberta", "gpt2-ends", "bert-added"] {
        let tokenizer = load(name);
        for text in [&long, &dense] {
            let whole = tokenizer.encode_around(text).expect("tokens");
            assert_eq!(in_pieces(&tokenizer, text), [whole.ids, whole.behind].concat(), "{name}");
        }
    }
}

/// A `tokenizer.json` of Llama's older kind, without a class that says so, puts a space before whatever it encodes: pieces too.
#[test]
fn a_tokenizer_that_prepends_a_space_reads_in_pieces() {
    let file = std::fs::read(folder("llama-json-legacy").join("tokenizer.json")).expect("a file");
    let json: serde_json::Value = serde_json::from_slice(&file).expect("JSON");
    assert!(json["normalizer"].to_string().contains("Prepend"), "{}", json["normalizer"]);
    let at = directory(&[("tokenizer.json", &file)]);
    let tokenizer = Tokenizer::load(at.path()).expect("readable files").expect("a tokenizer");
    let text = "to be  or not to be, that is\nthe question ".repeat(400);
    let mut pieces = Pieces::new(&tokenizer, text.as_bytes(), "a text");
    let mut ids = pieces.next_piece().expect("a piece").expect("a piece");
    assert!(!ids.is_empty() && pieces.bytes() < 10_000, "{} bytes", pieces.bytes());
    while let Some(piece) = pieces.next_piece().expect("a piece") {
        ids.extend(piece);
    }
    let whole = tokenizer.encode_around(&text).expect("tokens");
    assert_eq!(ids, [whole.ids, whole.behind].concat());
}

#[test]
fn a_piece_ends_where_no_longer_token_can_begin() {
    let tokenizer = load("world");
    for shift in 0..130 {
        let text = "x".repeat(shift) + &"-".repeat(9000);
        assert_eq!(in_pieces(&tokenizer, &text), tokenizer.encode(&text).expect("tokens"), "{shift}");
    }
}

#[test]
fn pieces_of_rwkvs_vocabulary_do_not_wait_for_the_end() {
    let tokenizer = load("world");
    let text = "to be or not to be, 漢字 ".repeat(4000);
    let mut pieces = Pieces::new(&tokenizer, text.as_bytes(), "a text");
    let first = pieces.next_piece().expect("a piece").expect("a piece");
    assert!(!first.is_empty() && pieces.bytes() < 10_000, "{} bytes", pieces.bytes());
}

#[test]
fn what_a_tokenizer_has_beside_the_file_is_part_of_it() {
    // A text of the added token has another number in each, and a fingerprint tells them apart.
    let added = load("bert-added").encode("a <ent> b").expect("tokens");
    let plain = load("bert-cased").encode("a <ent> b").expect("tokens");
    assert!(added.contains(&400) && !plain.contains(&400), "{added:?} {plain:?}");
}

/// A directory with files.
fn directory(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("a directory");
    for (name, bytes) in files {
        std::fs::write(to.path().join(name), bytes).expect("written");
    }
    to
}

fn refused(files: &[(&str, &[u8])]) -> String {
    let at = directory(files);
    Tokenizer::load(at.path()).err().expect("refused").to_string()
}

#[test]
fn blank_lines_of_a_vocabulary_are_no_tokens_but_count() {
    let words = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n\nthe\ncat\r\n\n\n";
    let at = directory(&[("vocab.txt", words)]);
    let tokenizer = Tokenizer::load(at.path()).expect("read").expect("a tokenizer");
    assert_eq!(tokenizer.encode("The cat").expect("tokens"), [6, 7]);
    assert_eq!(tokenizer.token(5), None);
}

#[test]
fn files_that_lie_are_refused_by_name() {
    let model = std::fs::read(folder("llama").join("tokenizer.model")).expect("a model");
    let score = [b"\n\x08\n\x01a\x15".as_slice(), &f32::NAN.to_le_bytes()].concat();
    let word = [model.as_slice(), b"\x12\x02\x18\x03"].concat();
    let map = [model.as_slice(), b"\x1a\x0a\x12\x08\x04\0\0\0\0\0\0\x01"].concat();
    let cases: [(&str, &[u8], &str); 12] = [
        ("tokenizer.model", b"", "no pieces"),
        ("tokenizer.model", &model[..model.len() / 2], "truncated"),
        ("tokenizer.model", b"\x0b", "wire type 3"),
        ("tokenizer.model", &score, "piece 0: score: want a finite number"),
        ("tokenizer.model", &word, "model_type: want unigram (1) or bpe (2), found word (3)"),
        ("tokenizer.model", &map, "precompiled_charsmap"),
        ("sentencepiece.bpe.model", b"\n\x02\n\0", ""),
        ("rwkv_vocab_v20230424.txt", b"1 'a' 1\n2 'bc' 3\n", "line 2: the literal has 2 bytes, the length is 3"),
        ("rwkv_vocab_v20230424.txt", b"1 'a\n", "line 1"),
        ("rwkv_vocab_v20230424.txt", b"1 b'\\u0041' 1\n", "line 1"),
        ("vocab.txt", b"a\nb\n", "has no `[UNK]`"),
        ("tokenizer.json", b"{", "not a tokenizer"),
    ];
    for (name, bytes, want) in cases {
        if name == "sentencepiece.bpe.model" {
            let config = br#"{"model_type": "xlm-roberta"}"#;
            let error = refused(&[(name, bytes), ("config.json", config)]);
            assert!(error.contains("has 1 pieces; a model of this class has 3") && error.contains(name), "{error}");
            continue;
        }
        let error = refused(&[(name, bytes)]);
        assert!(error.contains(want) && error.contains(name), "{name}: {error}");
    }
    let settings = br#"{"tokenizer_class": "PegasusTokenizer"}"#;
    let error = refused(&[("tokenizer.model", &model), ("tokenizer_config.json", settings)]);
    assert!(error.contains("PegasusTokenizer"), "{error}");
    let settings = br#"{"added_tokens_decoder": {"x": {"content": "a"}}}"#;
    let error = refused(&[("tokenizer.model", &model), ("tokenizer_config.json", settings)]);
    assert!(error.contains("added_tokens_decoder.x") && error.contains("tokenizer_config.json"), "{error}");
}

#[test]
fn a_byte_without_a_token_is_named() {
    let at = directory(&[("rwkv_vocab_v20230424.txt", b"1 '\\x00' 1\n2 'a' 1\n")]);
    let tokenizer = Tokenizer::load(at.path()).expect("read").expect("a tokenizer");
    assert_eq!(tokenizer.encode("aa\0").expect("tokens"), [2, 2, 1]);
    let Err(Error::Tokenizer { file, message }) = tokenizer.encode("ab") else { panic!("no error") };
    assert!(file.ends_with("rwkv_vocab_v20230424.txt") && message.contains("0x62"), "{file}: {message}");
}

proptest! {
    #![proptest_config(fuzz::config(300))]

    #[test]
    fn a_model_with_bytes_changed_is_read_or_refused(at in 0usize..4000, to in any::<u8>(), which in 0usize..4, cut in 0usize..400_000) {
        let names = ["llama/tokenizer.model", "t5/spiece.model", "own-unigram/tokenizer.model", "own-bpe/tokenizer.model"];
        let mut bytes = std::fs::read(folder(names[which])).expect("a model");
        let end = bytes.len();
        // Near the end are the settings and the map of characters.
        let place = if at % 2 == 0 { at % end } else { end - 1 - at % 2000 };
        bytes[place] = to;
        bytes.truncate(end - (cut % end) * (cut % 2));
        let config = std::fs::read(folder(names[which].split('/').next().expect("a folder")).join("config.json"));
        let settings = std::fs::read(folder(names[which].split('/').next().expect("a folder")).join("tokenizer_config.json"));
        let file = names[which].split('/').nth(1).expect("a name");
        let at = directory(&[(file, &bytes), ("config.json", &config.expect("a file"))]);
        if let Ok(settings) = settings {
            std::fs::write(at.path().join("tokenizer_config.json"), settings).expect("written");
        }
        match Tokenizer::load(at.path()) {
            Ok(tokenizer) => {
                let tokenizer = tokenizer.expect("a tokenizer");
                let _ = tokenizer.encode("ﬁne ½ <tool> 漢字 e\u{301}\t x\u{200b}");
            }
            Err(error) => prop_assert!(error.to_string().contains(file), "{}", error),
        }
    }

    #[test]
    fn a_vocabulary_of_rwkv_with_bytes_changed_is_read_or_refused(at in 0usize..40_000, to in any::<char>()) {
        let text = std::fs::read_to_string(folder("world").join("rwkv_vocab_v20230424.txt")).expect("a vocabulary");
        let text: String = text.chars().enumerate().map(|(i, c)| if i == at { to } else { c }).collect();
        let at = directory(&[("rwkv_vocab_v20230424.txt", text.as_bytes())]);
        if let Err(error) = Tokenizer::load(at.path()) {
            prop_assert!(error.to_string().contains("rwkv_vocab"), "{}", error);
        }
    }
}

/// A text begins with the special tokens of the tokenizer; a text that continues another one does not.
#[test]
fn special_tokens_are_added_once() {
    let json = r#"{"version": "1.0", "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true}], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "decoder": null,
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
        "model": {"type": "WordLevel", "vocab": {"<s>": 0, "a": 1, "b": 2}, "unk_token": "a"}}"#;
    let tokenizer = Tokenizer::parse("a tokenizer", json).expect("a tokenizer");
    let read = |continues: bool| {
        let mut pieces = Pieces::new(&tokenizer, "a b".as_bytes(), "a text").continues(continues);
        let mut ids = Vec::new();
        while let Some(piece) = pieces.next_piece().expect("tokens") {
            ids.extend(piece);
        }
        ids
    };
    assert_eq!(read(false), [0, 1, 2]);
    assert_eq!(read(true), [1, 2]);
    assert_eq!(tokenizer.prefix().expect("tokens"), [0]);
    assert_eq!(tokenizer.encode("<s>a").expect("tokens"), [0, 1]);
}
