//! Text written in pieces is the text decoded at once, for every kind of decoder.

use std::path::Path;
use std::sync::OnceLock;

use longreach_engine::{Engine, Sampling, Tokenizer};
use longreach_testkit::fuzz;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Tokens that the kinds of decoders treat in ways of their own, the special ones last.
const TOKENS: [&str; 43] = [
    "b", "a</w>", "</w>", "##b", "▁", "▁a", "▁▁", "a▁b", " c", "  ", "d ", "<0xE6>", "<0xBC>", "<0xA2>", "<0xF0>",
    "<0x9F>", "<0x41>", "<0xFF>", "<0x+1>", "|", "||", "<pad>x", ".", "'s", "n't", "do", "not", "漢", "字", "\u{fffd}",
    "Ġ", "Ġa", "æ", "¼", "¢", "ð", "Ł", "axx", "xa", "xxb", "aab", "<pad>", "</s>",
];

/// A tokenizer of these tokens with a decoder.
fn decoding(decoder: &Value) -> Tokenizer {
    let vocabulary: serde_json::Map<String, Value> =
        TOKENS.iter().enumerate().map(|(i, token)| (token.to_string(), json!(i))).collect();
    let special = |token: &str| {
        json!({
            "id": vocabulary[token], "content": token, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false,
        })
    };
    let file = json!({
        "version": "1.0", "added_tokens": [special("<pad>"), special("</s>")], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": decoder, "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "b"},
    });
    Tokenizer::parse("a tokenizer of odd tokens", &file.to_string()).expect("a tokenizer")
}

fn replace(from: &str, to: &str) -> Value {
    json!({"type": "Replace", "pattern": {"String": from}, "content": to})
}

fn strip(content: &str, start: usize, stop: usize) -> Value {
    json!({"type": "Strip", "content": content, "start": start, "stop": stop})
}

fn chain(decoders: &[Value]) -> Value {
    json!({"type": "Sequence", "decoders": decoders})
}

/// Every kind of decoder, alone and in chains, before and behind what joins tokens.
fn decoders() -> Vec<Value> {
    let simple = |kind: &str| json!({"type": kind});
    let metaspace =
        |scheme: &str| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
    let word_piece = |cleanup: bool| json!({"type": "WordPiece", "prefix": "##", "cleanup": cleanup});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let ctc = json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true});
    let bpe = json!({"type": "BPEDecoder", "suffix": "</w>"});
    let regex = json!({"type": "Replace", "pattern": {"Regex": " +"}, "content": "_"});
    let (fuse, fallback) = (simple("Fuse"), simple("ByteFallback"));
    vec![
        Value::Null,
        word_piece(true),
        word_piece(false),
        metaspace("always"),
        metaspace("first"),
        metaspace("never"),
        byte_level.clone(),
        bpe.clone(),
        ctc.clone(),
        fuse.clone(),
        fallback.clone(),
        replace("a", "aa"),
        regex.clone(),
        strip(" ", 1, 0),
        strip("x", 1, 2),
        chain(&[replace("▁", " "), fallback.clone(), fuse.clone(), strip(" ", 1, 0)]),
        chain(&[replace("▁", " "), fallback.clone(), fuse.clone(), strip(" ", 3, 0)]),
        chain(&[replace("▁", " "), fallback.clone(), fuse.clone()]),
        chain(&[fallback.clone(), metaspace("always")]),
        chain(&[fallback.clone(), chain(&[fuse.clone(), metaspace("always")])]),
        chain(&[fuse.clone(), replace("ab", "-"), strip("x", 2, 2)]),
        chain(&[fuse.clone(), replace("aab", "a"), replace("aa", "")]),
        chain(&[fuse.clone(), replace("漢漢字", "!"), replace("字\u{fffd}", "?")]),
        chain(&[byte_level.clone(), replace("  ", " "), strip("x", 0, 3)]),
        chain(&[fuse.clone(), regex]),
        chain(&[ctc, bpe.clone()]),
        chain(&[bpe, fallback, word_piece(true)]),
        chain(&[fuse.clone(), word_piece(true)]),
        chain(&[metaspace("first"), fuse, byte_level]),
    ]
}

fn text_tokenizers() -> &'static [(String, Tokenizer)] {
    static ALL: OnceLock<Vec<(String, Tokenizer)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tokenizers");
        let names = [
            "gpt2-ends",
            "bert-added",
            "bert-cased",
            "xlm-roberta",
            "t5",
            "camembert",
            "albert",
            "big_bird",
            "reformer",
            "llama",
            "llama-legacy",
            "llama-bare",
            "llama-json",
            "own-bpe",
            "own-unigram",
            "world",
        ];
        let mut all: Vec<(String, Tokenizer)> = names
            .iter()
            .map(|name| (name.to_string(), Tokenizer::load(&goldens.join(name)).expect("read").expect("a tokenizer")))
            .collect();
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/default/tokenizer.json");
        let own = std::fs::read_to_string(own).expect("the built-in model's tokenizer");
        all.push(("the built-in model".into(), Tokenizer::parse("tokenizer.json", &own).expect("a tokenizer")));
        let words = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/goldens/transfo-xl-b-pickle");
        all.push(("whole words".into(), Tokenizer::load(&words).expect("read").expect("a tokenizer")));
        all
    })
}

fn odd_tokenizers() -> &'static [(String, Tokenizer)] {
    static ALL: OnceLock<Vec<(String, Tokenizer)>> = OnceLock::new();
    ALL.get_or_init(|| decoders().iter().map(|decoder| (decoder.to_string(), decoding(decoder))).collect())
}

/// What is written behind `read`, in pieces.
fn in_pieces(tokenizer: &Tokenizer, read: &[u32], written: &[u32]) -> String {
    let mut writer = tokenizer.writer(read).expect("a writer");
    let mut text: String = written.iter().map(|id| writer.text(*id).expect("a text")).collect();
    text.push_str(&writer.rest().expect("a text"));
    text
}

/// What it is at once: the text of all without that of what was read.
fn at_once(tokenizer: &Tokenizer, read: &[u32], written: &[u32]) -> String {
    let whole = tokenizer.decode(&[read, written].concat()).expect("a text");
    let before = tokenizer.decode(read).expect("a text");
    // An incomplete character at the end of what was read may have become another.
    let same: usize = before.chars().zip(whole.chars()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum();
    whole[same..].to_owned()
}

#[track_caller]
fn law(name: &str, tokenizer: &Tokenizer, ids: &[u32], at: usize) {
    let (read, written) = ids.split_at(at.min(ids.len()));
    let (found, want) = (in_pieces(tokenizer, read, written), at_once(tokenizer, read, written));
    assert_eq!(found, want, "{name}: read {read:?}, wrote {written:?}");
}

fn token_count(tokenizer: &Tokenizer) -> u32 {
    let library = tokenizer.hugging_face().map(|library| library.get_vocab_size(true) as u32);
    library.unwrap_or(300) + 3
}

proptest! {
    #![proptest_config(fuzz::config(400))]

    #[test]
    fn pieces_are_the_whole_for_every_decoder(
        ids in prop::collection::vec(0..TOKENS.len() as u32 + 2, 0..24), at in 0usize..24, which in 0usize..1000,
    ) {
        let all = odd_tokenizers();
        let (name, tokenizer) = &all[which % all.len()];
        // The library's own decoders do not take an empty list.
        let ids = [&[0], &ids[..]].concat();
        law(name, tokenizer, &ids, at + 1);
    }

    #[test]
    fn pieces_are_the_whole_for_texts(
        text in "(\\PC|[ \n\t]|▁|漢|🙂|é|the |\u{fffd}){0,40}", at in 0usize..60, which in 0usize..1000,
    ) {
        let all = text_tokenizers();
        let (name, tokenizer) = &all[which % all.len()];
        law(name, tokenizer, &tokenizer.encode(&text).expect("tokens"), at);
    }

    #[test]
    fn pieces_are_the_whole_for_any_tokens(
        ids in prop::collection::vec(any::<u32>(), 0..160), at in 0usize..160, which in 0usize..1000,
    ) {
        let all = text_tokenizers();
        let (name, tokenizer) = &all[which % all.len()];
        let ids: Vec<u32> = ids.into_iter().map(|id| id % token_count(tokenizer)).collect();
        law(name, tokenizer, &ids, at);
    }
}

#[test]
fn every_two_tokens_are_the_whole_for_every_decoder() {
    let all = 0..TOKENS.len() as u32;
    for (name, tokenizer) in odd_tokenizers() {
        for (a, b) in all.clone().flat_map(|a| all.clone().map(move |b| (a, b))) {
            law(name, tokenizer, &[0, a, b], 1);
            law(name, tokenizer, &[0, a, b], 2);
        }
    }
}

#[test]
fn every_cut_of_a_text_is_the_whole() {
    let text = "Hello  World, 漢字 🙂👩‍👩‍👧 don't\n\n\u{fffd} <s> x</s> y [MASK] . ! Würde ▁ a";
    for (name, tokenizer) in text_tokenizers() {
        let ids = tokenizer.encode(text).expect("tokens");
        for at in 0..=ids.len() {
            law(name, tokenizer, &ids, at);
        }
    }
}

#[test]
fn text_is_given_as_soon_as_it_is_settled() {
    let by_name = |name: &str| &text_tokenizers().iter().find(|(n, _)| n == name).expect("a tokenizer").1;
    for name in ["llama", "gpt2-ends", "bert-added", "xlm-roberta", "world", "the built-in model"] {
        let tokenizer = by_name(name);
        let ids = tokenizer.encode("the value of the object \u{fffd} is the name").expect("tokens");
        let mut writer = tokenizer.writer(&[]).expect("a writer");
        let mut text = String::new();
        for (i, id) in ids.iter().enumerate() {
            text.push_str(&writer.text(*id).expect("a text"));
            let so_far = tokenizer.decode(&ids[..=i]).expect("a text");
            assert!(so_far.starts_with(&text), "{name}: {text:?} of {so_far:?}");
            let held = so_far.len() - text.len();
            assert!(held <= 9, "{name}: {held} bytes of {so_far:?} are held back");
        }
        assert_eq!(text, tokenizer.decode(&ids).expect("a text"), "{name}: nothing is left");
    }
}

#[test]
fn a_session_writes_what_decoding_all_its_tokens_adds() {
    let engine = Engine::embedded(None).expect("the embedded model");
    let tokenizer = engine.tokenizer().expect("a tokenizer");
    let prompt = "Ownership is a discipline, and 漢字";
    let read = tokenizer.encode(prompt).expect("tokens");
    let mut session = engine.session();
    session.read(&read).expect("read");
    let mut sampler = longreach_engine::Sampler::new(Sampling::greedy()).expect("valid options");
    let mut fork = session.clone();
    let mut writer = session.writer().expect("a writer");
    let (mut ids, mut text) = (Vec::new(), String::new());
    for _ in 0..12 {
        let id = session.next_token(&mut sampler).expect("a token");
        text.push_str(&writer.text(id).expect("a text"));
        ids.push(id);
    }
    text.push_str(&writer.rest().expect("a text"));
    assert_eq!(text, at_once(tokenizer, &read, &ids));
    assert_eq!(fork.write(12, Sampling::greedy()).expect("a text"), text);
}
