//! Entries of a tokenizer that contradict each other: each is an error that names the key, and none is a panic.

use std::time::Instant;

use longreach_gguf::{ByteString, Error, Gguf, Header, ToValue, tokenizer};

/// The entries of a small, valid tokenizer of a kind.
fn entries(kind: &str) -> Header {
    let mut header = Header::new();
    let tokens = ["<s>", "</s>", "a", "b", "ab", " ", " a"];
    put(&mut header, "model", kind);
    put(&mut header, "pre", "gpt-2");
    put(&mut header, "tokens", &tokens[..]);
    put(&mut header, "token_type", [3i32, 3, 1, 1, 1, 1, 1]);
    put(&mut header, "scores", [0.0f32, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0]);
    put(&mut header, "merges", ["a b", "  a"]);
    put(&mut header, "bos_token_id", 0u32);
    put(&mut header, "eos_token_id", 1u32);
    put(&mut header, "unknown_token_id", 0u32);
    put(&mut header, "seperator_token_id", 1u32);
    header
}

fn put(header: &mut Header, name: &str, value: impl ToValue) {
    header.set(&format!("tokenizer.ggml.{name}"), value).expect("an entry");
}

fn read(header: Header) -> Result<Option<tokenizer::Tokenizer>, Error> {
    let bytes = header.write_to(Vec::new()).and_then(|writer| writer.finish()).expect("a file");
    tokenizer::read(&Gguf::from_bytes("model.gguf", bytes.into()).expect("a file"))
}

/// The message of the error of a tokenizer of some kind in which one entry is another, without the file and the prefix
/// of the key.
fn refused(kind: &str, name: &str, value: impl ToValue) -> String {
    let mut header = entries(kind);
    put(&mut header, name, value);
    let message = read(header).expect_err("an error").to_string();
    message.strip_prefix("model.gguf: key `tokenizer.ggml.").expect("the file and the key").to_owned()
}

const KINDS: [&str; 5] = ["gpt2", "llama", "bert", "t5", "rwkv"];

#[test]
fn the_entries_are_valid() {
    for kind in KINDS {
        let read = read(entries(kind)).unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert_eq!(read.expect("a tokenizer").tokens, 7);
    }
}

#[test]
fn unknown_kinds() {
    let message = refused("gpt2", "model", "plamo2");
    assert!(
        message.starts_with("model`: `plamo2` is not supported (want gpt2, llama, gemma4, bert, t5, rwkv, none)"),
        "{message}"
    );
    assert!(message.contains("--tokenizer DIR"), "{message}");
}

#[test]
fn unknown_patterns() {
    for name in ["default", "gpt-3", "", "Llama-BPE"] {
        let message = refused("gpt2", "pre", name);
        assert!(message.starts_with(&format!("pre`: `{name}` is not supported")), "{message}");
    }
}

#[test]
fn missing_entries() {
    for (kind, name) in [("gpt2", "pre"), ("gpt2", "merges"), ("llama", "scores"), ("t5", "scores"), ("rwkv", "tokens")]
    {
        let mut header = Header::new();
        put(&mut header, "model", kind);
        if name != "tokens" {
            put(&mut header, "tokens", ["a", "b", "c"]);
        }
        if name != "pre" {
            put(&mut header, "pre", "gpt-2");
        }
        let message = read(header).expect_err("an error").to_string();
        assert!(message.contains(&format!("key `tokenizer.ggml.{name}`: is missing")), "{message}");
    }
}

#[test]
fn types_of_another_number() {
    for kind in KINDS {
        let message = refused(kind, "token_type", [1i32; 6]);
        assert_eq!(message, "token_type`: has 6 elements, but there are 7 tokens");
    }
}

#[test]
fn scores_of_another_number() {
    for kind in ["llama", "t5"] {
        let message = refused(kind, "scores", [1f32; 8]);
        assert_eq!(message, "scores`: has 8 elements, but there are 7 tokens");
    }
}

#[test]
fn unknown_types() {
    for (kind, number) in [("gpt2", 0i32), ("rwkv", 7), ("llama", -1)] {
        let message = refused(kind, "token_type", [1, 1, 1, number, 1, 1, 1]);
        assert_eq!(message, format!("token_type`: want 1 to 6, found {number} for token 3"));
    }
}

#[test]
fn no_tokens() {
    for kind in KINDS {
        let message = refused(kind, "tokens", &[""; 0][..]);
        assert_eq!(message, "tokens`: want at least one token, found none");
    }
}

#[test]
fn tokens_that_occur_twice() {
    for kind in ["gpt2", "llama", "bert", "t5"] {
        let message = refused(kind, "tokens", ["a", "b", "c", "d", "e", "b", "f"]);
        assert_eq!(message, "tokens`: tokens 1 and 5 are both `b`");
    }
    let message = refused("bert", "tokens", ["[A]", "[B]", "b", "▁##b", "e", "f", "g"]);
    assert_eq!(message, "tokens`: tokens 2 and 3 are both `##b`");
}

#[test]
fn tokens_that_are_not_utf_8() {
    let texts: [&[u8]; 7] = [b"a", b"b", b"ab", b" ", b" a", b"\xe2\x96", b"c"];
    let tokens: Vec<ByteString<'_>> = texts.into_iter().map(ByteString).collect();
    for kind in ["gpt2", "llama", "bert", "t5"] {
        let message = refused(kind, "tokens", &tokens);
        assert!(message.starts_with("tokens`: token 5 (\\xe2\\x96): want UTF-8"), "{message}");
    }
    let mut header = entries("rwkv");
    put(&mut header, "tokens", &tokens);
    assert!(read(header).is_ok(), "RWKV's are bytes");
}

#[test]
fn empty_tokens_get_a_name() {
    let mut header = entries("gpt2");
    put(&mut header, "tokens", ["a", "b", "ab", "", " ", " a", ""]);
    let read = read(header).expect("a tokenizer").expect("a tokenizer");
    assert!(matches!(read.vocabulary, tokenizer::Vocabulary::Json(text) if text.contains("[EMPTY_6]")));
}

#[test]
fn merges_of_unknown_tokens() {
    for (merge, missing) in [("a c", "c"), ("b a", "ba"), ("c a", "c")] {
        let message = refused("gpt2", "merges", ["a b", merge]);
        assert_eq!(message, format!("merges`: merge 1 (`{merge}`) needs the token `{missing}`, which is missing"));
    }
}

#[test]
fn merges_that_are_not_pairs() {
    for merge in ["ab", "", " a", "a ", " "] {
        let message = refused("gpt2", "merges", [merge]);
        assert_eq!(message, format!("merges`: merge 0 (`{merge}`) is not two tokens with a space between them"));
    }
    let message = refused("gpt2", "merges", [ByteString(b"a \xff")]);
    assert!(message.ends_with("is not UTF-8"), "{message}");
}

#[test]
fn scores_that_are_not_finite() {
    for (kind, score) in [("llama", f32::NAN), ("t5", f32::NEG_INFINITY), ("llama", f32::INFINITY)] {
        let message = refused(kind, "scores", [0.0, 0.0, 0.0, 0.0, score, 0.0, 0.0]);
        assert_eq!(message, format!("scores`: want finite scores, found {score} for token 4"));
    }
}

#[test]
fn ids_that_are_not_in_the_vocabulary() {
    for name in ["bos", "eos", "eot", "eom", "unknown", "padding", "seperator", "mask"] {
        for kind in KINDS {
            let message = refused(kind, &format!("{name}_token_id"), 7u32);
            assert_eq!(message, format!("{name}_token_id`: 7 is not below 7, the number of tokens"));
        }
    }
    let message = refused("gpt2", "bos_token_id", -1i32);
    assert!(message.starts_with("bos_token_id`"), "{message}");
}

#[test]
fn tokens_around_a_text_that_are_missing() {
    let mut header = Header::new();
    put(&mut header, "model", "gpt2");
    put(&mut header, "pre", "llama-bpe");
    put(&mut header, "tokens", ["a", "b"]);
    put(&mut header, "merges", &[""; 0][..]);
    let message = read(header).expect_err("an error").to_string();
    assert!(message.ends_with("bos_token_id`: is missing, but add_bos_token asks for it"), "{message}");
}

#[test]
fn values_of_other_types() {
    assert!(refused("gpt2", "tokens", [1u32]).starts_with("tokens`: want an array of strings"));
    assert!(refused("gpt2", "add_bos_token", 1u32).starts_with("add_bos_token`: want true or false"));
    assert!(refused("llama", "scores", [1u32; 7]).starts_with("scores`: element 0: want a float"));
    assert!(
        refused("t5", "precompiled_charsmap", ["a"]).starts_with("precompiled_charsmap`: element 0: want an integer")
    );
}

#[test]
fn maps_of_characters_that_are_cut_short() {
    for map in [&[1u8, 0, 0][..], &[8, 0, 0, 0, 1, 1, 1, 1], &[255, 255, 255, 255, 1, 0], &[4, 0, 0, 0, 1, 1, 1, 1, 7]]
    {
        let message = refused("t5", "precompiled_charsmap", map);
        assert!(message.contains("are not a map of SentencePiece"), "{message}");
    }
}

#[test]
fn maps_of_characters_that_lead_out_of_themselves() {
    // A valid map of `q` to `é`, with one unit changed.
    let changed = |at: usize, unit: u32| {
        let mut units = [0u32; 512];
        units[0] = 256 << 10;
        units[256 ^ 0x71] = 0x71 << 10 | 1 << 8 | 0x71;
        units[256] = 1 << 31;
        units[at] = unit;
        let mut map = 2048u32.to_le_bytes().to_vec();
        map.extend(units.into_iter().flat_map(u32::to_le_bytes));
        map.extend("é\0".as_bytes());
        map
    };
    let mut header = entries("t5");
    put(&mut header, "precompiled_charsmap", changed(1, 0));
    assert!(read(header).is_ok());
    let beyond = 0x1f_ffff << 10;
    for (at, unit) in
        [(0, beyond), (0, 512 << 10), (369, beyond | 0x71), (369, beyond | 1 << 9 | 0x71), (256, 1), (256, 9)]
    {
        let message = refused("t5", "precompiled_charsmap", changed(at, unit));
        assert!(message.ends_with("the trie leads out of the map"), "{message}");
    }
}

#[test]
fn literals_that_are_damaged() {
    for literal in [r"\x4", r"\xg0", r"a\", r"\u0041", r"\x+1"] {
        let message = refused("rwkv", "tokens", ["a", literal, "c", "d", "e", "f", "g"]);
        assert!(message.starts_with("tokens`: token 1 is not a Python literal"), "{message}");
    }
}

#[test]
fn long_and_nested_tokens_do_not_take_long() {
    let began = Instant::now();
    let long = "a".repeat(5_000_000);
    let message = refused("llama", "tokens", ["<s>", "</s>", "a", "aa", &long, "b", "c"]);
    assert_eq!(message, "tokens`: token 4 has 5000000 bytes, but at most 1024 are supported");
    let nested: Vec<String> = (1..=1000).map(|n| "a".repeat(n)).collect();
    let mut header = Header::new();
    put(&mut header, "model", "llama");
    put(&mut header, "tokens", &nested);
    put(&mut header, "scores", vec![0f32; 1000]);
    let message = read(header).expect_err("an error").to_string();
    assert!(
        message.ends_with("the merges of the tokens take more than 64 times the 500500 bytes of these"),
        "{message}"
    );
    assert!(began.elapsed().as_secs() < 5);
}
